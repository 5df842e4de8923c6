import { createReadStream } from "node:fs";
import { Readable } from "node:stream";
import { z } from "zod";
import { AppError } from "../../../app/app_error.ts";
import { documentLimits } from "../../../app/documents/limits.ts";
import type { Route } from "../../route.ts";
import { readUpload } from "../../uploads.ts";
import { text } from "./answers.ts";
import { appRoute, limitOf, wholeOf } from "./app_route.ts";
import { boardOf } from "./notices.ts";

const metadata = z.strictObject({
  user_id: z.string().min(1).max(100).optional(),
  data_type: z.enum(["auto", "text", "csv", "image", "audio"]).optional(),
  notice_id: z.string().min(1).max(100).optional(),
});

/** What the field `metadata` of an upload says. @throws AppError 422. */
function metadataOf(given: string | undefined): z.infer<typeof metadata> {
  if (given === undefined) return {};
  try {
    return metadata.parse(JSON.parse(given));
  } catch {
    const form =
      '{"user_id": "…", "data_type": "auto"}, data_type being auto, text, csv, image or audio, and notice_id one of yours';
    throw new AppError(422, "invalid_metadata", `metadata: must be JSON such as ${form}`, "metadata");
  }
}

const upload = appRoute({
  method: "POST",
  path: "/api/upload",
  summary:
    "Documents to be read: a form with `file` (repeatable) and `metadata`, JSON with user_id, data_type and notice_id",
  files: true,
  bodyBytes: () => 4 * documentLimits.fileBytes,
  handle: ({ application, principal, userId: asked, reply }) =>
    readUpload(reply.request.raw, documentLimits.fileBytes, async ({ files, fields }) => {
      if (files.length === 0)
        throw new AppError(
          422,
          "no_file",
          "file: is missing: send files as parts named file of a form",
          "file",
        );
      const { user_id, notice_id } = metadataOf(fields.get("metadata"));
      const userId = user_id === undefined ? asked : await application.auth.userFor(principal, user_id);
      const library =
        notice_id === undefined
          ? await application.documents.of(userId)
          : await boardOf({ application, principal, userId }).attachments(notice_id, files.length);
      const added = [];
      for (const { name, path } of files) added.push(await library.add(name, createReadStream(path)));
      reply.code(added.some(({ isNew }) => isNew) ? 202 : 200);
      const job_ids = added.flatMap(({ job_id }) => job_id ?? []);
      return { documents: added.map(({ document }) => document), job_id: job_ids[0] ?? null, job_ids };
    }),
});

const list = appRoute({
  method: "GET",
  path: "/api/documents",
  summary: "The caller's documents, the newest first",
  handle: async (call) => (await call.application.documents.of(call.userId)).list(limitOf(call as never)),
});

const one = appRoute({
  method: "GET",
  path: "/api/documents/:id",
  summary: "A document and how far it was read",
  handle: async ({ application, userId, params }) => (await application.documents.of(userId)).get(params.id!),
});

const chunks = appRoute({
  method: "GET",
  path: "/api/documents/:id/chunks",
  summary: "The passages of a document, those after the ordinal ?after=",
  handle: async (call) => {
    const library = await call.application.documents.of(call.userId);
    const after = wholeOf(call as never, "after", 0, 1e9);
    const first = (call.reply.request.query as { after?: string }).after === undefined ? -1 : after;
    return { chunks: await library.passages(call.params.id!, limitOf(call as never), first) };
  },
});

const content = appRoute({
  method: "GET",
  path: "/api/documents/:id/content",
  summary: "The bytes of a document, to be kept and not to be shown",
  handle: async ({ application, userId, params, reply }) => {
    const { document, stream } = await (await application.documents.of(userId)).content(params.id!);
    // Whatever it is, a browser does not run it.
    reply.headers({
      "content-type": "application/octet-stream",
      "content-length": document.bytes,
      "content-disposition": `attachment; filename*=UTF-8''${encodeURIComponent(document.name)}`,
      "x-content-type-options": "nosniff",
    });
    return reply.send(Readable.fromWeb(stream as never));
  },
});

const remove = appRoute({
  method: "DELETE",
  path: "/api/documents/:id",
  summary: "Delete a document with its passages",
  status: 204,
  handle: async ({ application, userId, params }) =>
    (await application.documents.of(userId)).remove(params.id!),
});

const retrieve = appRoute({
  method: "POST",
  path: "/api/retrieve",
  summary: "The passages of the caller's documents that answer a question",
  example: { query: "What is the return policy?", k: 5 },
  schema: () =>
    z.object({
      query: text,
      k: z.int().min(1).max(20).default(5),
      user_id: z.string().max(100).optional(),
    }),
  handle: ({ application, userId, body: { query, k } }) =>
    application.documents.searches.explain(userId, query, k),
});

export const documentRoutes: readonly Route[] = [upload, list, one, chunks, content, remove, retrieve];
