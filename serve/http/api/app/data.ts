import { z } from "zod";
import { AppError } from "../../../app/app_error.ts";
import { ConversationData, type DataFile } from "../../../app/data.ts";
import { IMPORT_BYTES, importFile } from "../../../app/import.ts";
import type { PreviewBody } from "../../../app/protocol.ts";
import type { Route } from "../../route.ts";
import { readUpload } from "../../uploads.ts";
import { type AppCall, appRoute, queryOf } from "./app_route.ts";

const dataOf = ({ application, userId }: AppCall<unknown>) => new ConversationData(application.store, userId);

const statistics = appRoute({
  method: "GET",
  path: "/api/data/statistics",
  summary: "Numbers about the caller's conversations that may become training data",
  handle: (call) => dataOf(call).statistics(),
});

const length = z.int().min(0).max(1_000_000);
const rules = z.strictObject({
  personal: z.enum(["redact", "remove", "drop", "keep"]).optional(),
  min_chars: length.optional(),
  max_chars: length.min(1).optional(),
  near_duplicates: z.enum(["keep_first", "keep_best", "drop_all", "keep"]).optional(),
});

const preview = appRoute({
  method: "POST",
  path: "/api/data/preview",
  summary: "What the cleaner would change and leave out; nothing is written",
  example: { rules: { personal: "redact" }, sample: 50 },
  schema: () => z.object({ rules: rules.optional(), sample: z.int().min(1).max(200).optional() }),
  handle: (call) => dataOf(call).preview(call.body as PreviewBody),
});

const build = appRoute({
  method: "POST",
  path: "/api/data/build",
  summary: "Clean, split and write them as a dataset in the server's data folder",
  example: { name: "data1", rules: {} },
  schema: () =>
    z.object({
      name: z.string().regex(/^[a-z\d][\w-]{0,63}$/i, "must be letters, digits, - and _, 64 at most"),
      rules: rules.optional(),
    }),
  status: 201,
  handle: (call) => dataOf(call).build(call.body.name, (call.body as PreviewBody).rules ?? {}),
});

const formats = z.enum([
  ...(["jsonl", "json", "csv", "parquet", "chatml", "alpaca", "instruction"] as const),
  ...(["sharegpt", "openai", "preference"] as const),
]);
const types: Record<string, string> = {
  ...{ json: "application/json", jsonl: "application/jsonl", csv: "text/csv; charset=utf-8" },
  parquet: "application/vnd.apache.parquet",
};

/** The format that ?format= asks for. @throws AppError 422. */
function formatOf(call: AppCall<unknown>) {
  const { data: format } = formats.safeParse(queryOf(call.reply.request).format ?? "jsonl");
  if (format !== undefined) return format;
  const message = `format: must be one of ${formats.options.join(", ")}`;
  throw new AppError(422, "invalid_query", message, "format");
}

const sent = ({ reply }: AppCall<unknown>, { name, bytes }: DataFile) =>
  reply
    .header("content-type", types[name.split(".").at(-1)!])
    .header("content-disposition", `attachment; filename="${name}"`)
    .send(bytes);

const exported = appRoute({
  method: "GET",
  path: "/api/data/export",
  summary: "The caller's conversations that may become training data, as a file in a ?format=",
  handle: async (call) => sent(call, await dataOf(call).export(formatOf(call))),
});

const own = appRoute({
  method: "GET",
  path: "/api/me/data",
  summary: "All of the caller's conversations, as a file in a ?format=",
  handle: async (call) => sent(call, await dataOf(call).exportOwn(formatOf(call))),
});

const one = appRoute({
  method: "GET",
  path: "/api/conversations/:id/export",
  summary: "A conversation as a file in a ?format=",
  handle: async (call) => {
    const { id } = await call.chats.get(call.params.id!);
    return sent(call, await dataOf(call).exportOwn(formatOf(call), id));
  },
});

const imported = appRoute({
  method: "POST",
  path: "/api/conversations/import",
  summary: "Conversations of a form's `file`, in any layout of `kiln data import`",
  files: true,
  bodyBytes: () => IMPORT_BYTES + 65_536,
  status: 201,
  handle: ({ application, principal, userId: asked, reply }) =>
    readUpload(reply.request.raw, IMPORT_BYTES, async ({ files, fields }) => {
      const [file] = files;
      if (file === undefined || files.length > 1)
        throw new AppError(422, "no_file", "file: send one file, as the part `file` of a form", "file");
      const named = fields.get("user_id");
      const userId = named === undefined ? asked : await application.auth.userFor(principal, named);
      return importFile(application.store, userId, file);
    }),
});

export const dataRoutes: readonly Route[] = [...[statistics, preview, build, exported, own, one, imported]];
