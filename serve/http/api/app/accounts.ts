import { z } from "zod";
import { answerParams } from "../../../app/chat/params.ts";
import { modelList } from "../../../app/model_list.ts";
import { deleteOwnData } from "../../../app/own_data.ts";
import type { Me, ProviderList, SettingsPatch } from "../../../app/protocol.ts";
import { HttpError } from "../../errors.ts";
import type { Call, Route } from "../../route.ts";
import { appRoute } from "./app_route.ts";

const me = appRoute({
  method: "GET",
  path: "/api/me",
  summary: "Who asks, and what they chose",
  handle: async ({ application, principal: { id, name, role, mode } }): Promise<Me> => ({
    ...{ id, name, role, mode },
    settings: await application.users.settings(id),
  }),
});

const settings = appRoute({
  method: "PATCH",
  path: "/api/me/settings",
  summary: "Keep what the caller chose, for all their browsers; null takes a choice away",
  example: { theme: "dark", params: { temperature: 0.7 } },
  schema: () =>
    z.object({
      theme: z.enum(["system", "light", "dark"]).nullish(),
      params: answerParams.nullish(),
      model: z.string().min(1).max(200).nullish(),
      system: z.string().max(100_000).nullish(),
      consent: z.boolean().nullish(),
    }),
  handle: ({ application, principal, body }) =>
    application.users.changeSettings(principal.id, body as SettingsPatch),
});

const models = appRoute({
  method: "GET",
  path: "/api/models",
  summary: "The models that answer here",
  handle: ({ service, application, userId }) => modelList(service.models, application.source, userId),
});

const providers = appRoute({
  method: "GET",
  path: "/api/providers",
  summary: "The providers that answer here, never their keys",
  handle: ({ application: { source }, principal }): ProviderList => ({
    providers: source.providers?.(principal.role === "admin") ?? [],
  }),
});

const loginSchema = z.object({ token: z.string().min(1).max(200) });

/** Needs no principal: it makes one. */
const login: Route = {
  method: "POST",
  path: "/api/login",
  summary: "Log a browser in by a token",
  example: { token: "TOKEN" },
  app: true,
  schema: () => loginSchema,
  handle: async ({ body, service, reply }: Call<z.infer<typeof loginSchema>>) => {
    if (service.application === undefined)
      throw new HttpError(501, "this server keeps no conversations", { code: "no_application" });
    const { user, cookie } = await (await service.application.open()).auth.login(body.token);
    reply.header("set-cookie", cookie);
    return user;
  },
};

const logout = appRoute({
  method: "POST",
  path: "/api/logout",
  summary: "End this browser's session",
  status: 204,
  handle: async ({ application, principal, reply }) => {
    reply.header("set-cookie", await application.auth.logout(principal));
  },
});

const keys = appRoute({
  method: "GET",
  path: "/api/keys",
  summary: "The caller's keys",
  handle: async ({ application, principal }) => ({ keys: await application.users.keys(principal.id) }),
});

const addKey = appRoute({
  method: "POST",
  path: "/api/keys",
  summary: "A new key of the caller, whose token is shown this once",
  example: { name: "laptop" },
  schema: () => z.object({ name: z.string().max(100), scopes: z.array(z.enum(["act_as"])).optional() }),
  status: 201,
  handle: ({ application, principal, body: { scopes = [] } }) => {
    if (scopes.length > 0 && principal.role !== "admin")
      throw new HttpError(403, "only an admin makes keys that act as others", {
        ...{ param: "scopes", code: "scope_not_allowed" },
      });
    return application.users.addKey(principal.id, scopes);
  },
});

const removeKey = appRoute({
  method: "DELETE",
  path: "/api/keys/:id",
  summary: "Revoke a key of the caller",
  status: 204,
  handle: async ({ application, principal, params }) => {
    await application.users.revokeKey(principal.id, params.id!);
    application.hub.end(principal.id, params.id!);
  },
});

const deleteData = appRoute({
  method: "DELETE",
  path: "/api/me/data",
  summary: "Remove all that the caller wrote; the account stays",
  handle: ({ application, userId }) => deleteOwnData(application, userId),
});

export const accountRoutes: readonly Route[] = [
  ...[me, settings, models, providers, login, logout, keys, addKey, removeKey, deleteData],
];
