import { z } from "zod";
import { AppError, notFound } from "../../../app/app_error.ts";
import type { UserPatch } from "../../../app/protocol.ts";
import type { Route } from "../../route.ts";
import { type AppCall, appRoute } from "./app_route.ts";

const role = z.enum(["admin", "member", "service"]);

const list = appRoute({
  method: "GET",
  path: "/api/users",
  summary: "The users of this server, for admins",
  handle: async (call) => {
    onlyAdmins(call);
    return { users: await call.application.users.list() };
  },
});

const add = appRoute({
  method: "POST",
  path: "/api/users",
  summary: "A new user with a token, which is shown this once; for admins",
  example: { name: "cy", role: "member" },
  schema: () =>
    z.object({
      name: z.string().max(100),
      role: role.optional(),
    }),
  handle: async (call) => {
    onlyAdmins(call);
    const { users } = call.application;
    const user = await users.add(call.body.name, call.body.role ?? "member");
    const { token } = await users.addKey(user.id);
    call.reply.code(201);
    return { user, token };
  },
});

const change = appRoute({
  method: "PATCH",
  path: "/api/users/:id",
  summary: "Disable a user, whose tokens are good for nothing then, or change the role; for admins",
  example: { disabled: true },
  schema: () => z.object({ role: role.optional(), disabled: z.boolean().optional() }),
  handle: async (call) => {
    onlyAdmins(call);
    const { users, hub } = call.application;
    const user = await users.change(call.params.id!, call.body as UserPatch);
    if (user.disabled_at !== null) hub.end(user.id);
    return user;
  },
});

const addKey = appRoute({
  method: "POST",
  path: "/api/users/:id/keys",
  summary: "A new token of a user, which is shown this once; for admins",
  handle: async (call) => {
    onlyAdmins(call);
    const { users } = call.application;
    const { id } = await users.find(call.params.id!);
    call.reply.code(201);
    return users.addKey(id);
  },
});

/** @throws AppError 403; 404 for one of them, so that nobody learns who there is. */
function onlyAdmins({ principal, params }: Pick<AppCall<unknown>, "principal" | "params">): void {
  if (principal.role === "admin") return;
  if ("id" in params) throw notFound("user");
  throw new AppError(403, "admins_only", "users are an admin's business: ask one");
}

export const userRoutes: readonly Route[] = [list, add, change, addKey];
