import { z } from "zod";
import { AppError } from "../../../app/app_error.ts";
import { ConversationData } from "../../../app/data.ts";
import type { PreviewBody } from "../../../app/protocol.ts";
import type { Route } from "../../route.ts";
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
  handle: async (call) => {
    const report = await dataOf(call).build(call.body.name, (call.body as PreviewBody).rules ?? {});
    call.reply.code(201);
    return report;
  },
});

const formats = z.enum([
  ...(["jsonl", "json", "csv", "parquet", "chatml", "alpaca", "instruction"] as const),
  ...(["sharegpt", "openai", "preference"] as const),
]);
const types: Record<string, string> = {
  ...{ json: "application/json", jsonl: "application/jsonl", csv: "text/csv; charset=utf-8" },
  parquet: "application/vnd.apache.parquet",
};

const exported = appRoute({
  method: "GET",
  path: "/api/data/export",
  summary: "The caller's conversations that may become training data, as a file in a ?format=",
  handle: async (call) => {
    const { data: format } = formats.safeParse(queryOf(call.reply.request).format ?? "jsonl");
    if (format === undefined)
      throw new AppError(
        422,
        "invalid_query",
        `format: must be one of ${formats.options.join(", ")}`,
        "format",
      );
    const { name, bytes } = await dataOf(call).export(format);
    return call.reply
      .header("content-type", types[name.split(".").at(-1)!])
      .header("content-disposition", `attachment; filename="${name}"`)
      .send(bytes);
  },
});

export const dataRoutes: readonly Route[] = [statistics, preview, build, exported];
