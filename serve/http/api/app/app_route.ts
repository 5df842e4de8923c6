import type { z } from "zod";
import { AppError, notFound } from "../../../app/app_error.ts";
import type { Application } from "../../../app/application.ts";
import type { Principal } from "../../../app/auth.ts";
import type { Chats } from "../../../app/chat/chats.ts";
import { HttpError } from "../../errors.ts";
import type { Call, Route } from "../../route.ts";

/** A request of somebody whom the application knows. */
export interface AppCall<Body> extends Call<Body> {
  readonly application: Application;
  readonly principal: Principal;
  /** Whom it is about: the principal, or whom `user_id` names where the principal may. */
  readonly userId: string;
  /** The conversations of that user. */
  readonly chats: Chats;
}

interface AppRoute<Body> extends Omit<Route, "handle" | "schema" | "app"> {
  /** For admins alone: what is said to others, such as `models are changed by`. */
  readonly admins?: string;
  /** Of an answer, where it is not 200; 204 has no body. */
  readonly status?: 201 | 202 | 204;
  readonly handle: (call: AppCall<Body>) => unknown;
}

/** A route of the application with a body. */
export function appRoute<Schema extends z.ZodObject>(
  definition: AppRoute<z.infer<Schema>> & { readonly schema: () => Schema },
): Route;
/** A route of the application without one. */
export function appRoute(definition: AppRoute<undefined>): Route;
export function appRoute({ handle, admins, status, ...definition }: AppRoute<never>): Route {
  return {
    ...definition,
    app: true,
    handle: async (request: Call<never>) => {
      const call = { ...request, ...(await known(request)) };
      if (admins !== undefined) onlyAdmins(call, admins);
      const answer = await handle(call);
      if (status !== undefined) call.reply.code(status);
      return status === 204 ? call.reply.send() : answer;
    },
  };
}

async function known({ service, reply: { request }, body }: Call<{ user_id?: string } | undefined>) {
  if (service.application === undefined)
    throw new HttpError(501, "this server keeps no conversations", { code: "no_application" });
  const application = await service.application.open();
  const { authorization, cookie } = request.headers;
  const principal = await application.auth.principal({ authorization, cookie });
  const userId = await application.auth.userFor(principal, body?.user_id ?? queryOf(request).user_id);
  return { application, principal, userId, chats: application.chats(userId) };
}

/** The query of a request; of a name that comes twice, the first value. */
export function queryOf({ query }: { readonly query: unknown }): Record<string, string | undefined> {
  const entries = Object.entries(query as Record<string, string | string[]>);
  return Object.fromEntries(entries.map(([name, value]) => [name, [value].flat()[0]]));
}

/** A whole number of the query, from `least` to `most`. @throws AppError 422. */
export function wholeOf(call: Call<never>, name: string, byDefault: number, most: number, least = 0): number {
  const text = queryOf(call.reply.request)[name];
  if (text === undefined) return byDefault;
  const value = /^\d{1,15}$/.test(text) ? Number(text) : Number.NaN;
  if (value >= least && value <= most) return value;
  throw new AppError(422, "invalid_query", `${name}: must be a whole number from ${least} to ${most}`, name);
}

/** A page's length. */
export const limitOf = (call: Call<never>): number => wholeOf(call, "limit", 50, 200, 1);

/** @throws AppError 403 for who is no admin; 404 where the path names one thing, of which others learn nothing. */
function onlyAdmins({ principal, params }: AppCall<never>, what: string): void {
  if (principal.role === "admin") return;
  if ("id" in params) throw notFound("thing");
  throw new AppError(403, "admins_only", `${what} admins alone: ask one`);
}
