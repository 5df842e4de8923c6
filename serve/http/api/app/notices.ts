import { z } from "zod";
import { Notices, noticeLimits } from "../../../app/notices.ts";
import type { NewNotice, NoticePatch } from "../../../app/protocol.ts";
import type { Route } from "../../route.ts";
import { type AppCall, appRoute, limitOf, queryOf } from "./app_route.ts";

/** The board as the caller sees it; who acts for another has that one's rights, an admin too. */
export const boardOf = ({
  application: { store, documents },
  principal,
  userId,
}: Pick<AppCall<unknown>, "application" | "principal" | "userId">): Notices =>
  new Notices(store, documents, {
    id: userId,
    isAdmin: principal.role === "admin" && principal.id === userId,
  });

const title = z.string().trim().min(1).max(noticeLimits.titleChars).regex(/^.*$/, "must be one line");
const body = z.string().max(noticeLimits.bodyChars);

const list = appRoute({
  method: "GET",
  path: "/api/notices",
  summary: "The notice board: pinned notices first, then the newest, those after the cursor ?before=",
  handle: (call) => boardOf(call).list(limitOf(call as never), queryOf(call.reply.request).before ?? null),
});

const post = appRoute({
  method: "POST",
  path: "/api/notices",
  summary: "Post a notice, once for each request_id, for the user whom a key with act_as names",
  example: { title: "Opening hours", body: "We open at **nine**.", request_id: "REQUEST" },
  schema: () =>
    z.object({
      ...{ title, body, pinned: z.boolean().optional() },
      request_id: z.string().min(1).max(100).optional(),
      user_id: z.string().min(1).max(100).optional(),
    }),
  handle: async (call) => {
    const { user_id: _, ...notice } = call.body as NewNotice;
    const posted = await boardOf(call).post(notice);
    call.reply.code(posted.isNew ? 201 : 200);
    return posted.notice;
  },
});

const one = appRoute({
  method: "GET",
  path: "/api/notices/:id",
  summary: "A notice",
  handle: (call) => boardOf(call).get(call.params.id!),
});

const patch = appRoute({
  method: "PATCH",
  path: "/api/notices/:id",
  summary: "Change or pin a notice; for its author and admins",
  example: { pinned: true },
  schema: () =>
    z.object({
      ...{ title: title.optional(), body: body.optional(), pinned: z.boolean().optional() },
      updated_at: z.int().optional(),
    }),
  handle: (call) => boardOf(call).patch(call.params.id!, call.body as NoticePatch),
});

const remove = appRoute({
  method: "DELETE",
  path: "/api/notices/:id",
  summary: "Delete a notice with its files; for its author and admins",
  status: 204,
  handle: (call) => boardOf(call).remove(call.params.id!),
});

const own = appRoute({
  method: "GET",
  path: "/api/me/notices",
  summary: "All notices that the caller posted, as a file",
  handle: async (call) => {
    const notices = await boardOf(call).own();
    call.reply.header("content-disposition", 'attachment; filename="notices.json"');
    return { notices };
  },
});

export const noticeRoutes: readonly Route[] = [list, post, one, patch, remove, own];
