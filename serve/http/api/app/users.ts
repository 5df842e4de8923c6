import { z } from "zod";
import type { UserPatch } from "../../../app/protocol.ts";
import type { Route } from "../../route.ts";
import { appRoute } from "./app_route.ts";

const role = z.enum(["admin", "member", "service"]);
const admins = "users are for";

const list = appRoute({
  method: "GET",
  path: "/api/users",
  summary: "The users of this server, for admins",
  admins,
  handle: async ({ application: { users } }) => ({ users: await users.list() }),
});

const add = appRoute({
  method: "POST",
  path: "/api/users",
  summary: "A new user with a token, which is shown this once; for admins",
  example: { name: "cy", role: "member" },
  schema: () => z.object({ name: z.string().max(100), role: role.optional() }),
  admins,
  status: 201,
  handle: async ({ application: { users }, body }) => {
    const user = await users.add(body.name, body.role ?? "member");
    const { token } = await users.addKey(user.id);
    return { user, token };
  },
});

const change = appRoute({
  method: "PATCH",
  path: "/api/users/:id",
  summary: "Disable a user, whose tokens are good for nothing then, or change the role; for admins",
  example: { disabled: true },
  schema: () => z.object({ role: role.optional(), disabled: z.boolean().optional() }),
  admins,
  handle: async ({ application: { users, hub }, params, body }) => {
    const user = await users.change(params.id!, body as UserPatch);
    if (user.disabled_at !== null) hub.end(user.id);
    return user;
  },
});

const addKey = appRoute({
  method: "POST",
  path: "/api/users/:id/keys",
  summary: "A new token of a user, which is shown this once; for admins",
  admins,
  status: 201,
  handle: async ({ application: { users }, params }) => users.addKey((await users.find(params.id!)).id),
});

export const userRoutes: readonly Route[] = [list, add, change, addKey];
