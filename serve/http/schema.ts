import { z } from "zod";
import { ServeError } from "../errors.ts";
import type { Limits } from "../limits.ts";
import { refusal } from "./fields.ts";

function completionSchema(limits: Limits) {
  const number = z.number().nullish();
  const flag = z.boolean().nullish();
  const stop = z.string().min(1).max(limits.stopChars);
  // Counted before any of them is looked at.
  const atMost = <T extends z.ZodType>(count: number, item: T) =>
    z.array(z.unknown()).max(count).pipe(z.array(item));
  return z.object({
    model: z.string().min(1),
    prompt: z.unknown(),
    max_tokens: z.int().min(0).nullish(),
    temperature: number,
    top_p: number,
    n: z.int().min(1).max(limits.n).nullish(),
    best_of: z.int().min(0).max(limits.bestOf).nullish(),
    stream: flag,
    stream_options: z
      .object({ include_usage: flag, continuous_usage_stats: flag, include_obfuscation: flag })
      .nullish(),
    logprobs: z.int().min(0).max(limits.logprobs).nullish(),
    echo: flag,
    stop: z
      .union([stop, atMost(limits.stops, stop)], `must be a string or up to ${limits.stops} strings`)
      .nullish(),
    presence_penalty: number,
    frequency_penalty: number,
    logit_bias: z
      .record(z.string(), z.number())
      .refine(
        (bias) => Object.keys(bias).length <= limits.logitBias,
        `has more than ${limits.logitBias} entries`,
      )
      .nullish(),
    seed: z.union([z.number(), z.bigint()], "must be a whole number").nullish(),
    add_special_tokens: flag,
    top_k: number,
    min_p: number,
    repetition_penalty: number,
    stop_token_ids: atMost(limits.stopTokenIds, z.int().min(0)).nullish(),
    ignore_eos: flag,
    min_tokens: z.int().min(0).nullish(),
    skip_special_tokens: flag,
    include_stop_str_in_output: flag,
    return_token_ids: flag,
    priority: z.int().min(-1000).max(1000).nullish(),
  });
}

/** Body of POST /v1/completions with types and sizes checked; ranges of sampling fields are checked with the model at hand. */
export type CompletionBody = z.infer<ReturnType<typeof completionSchema>>;

/**
 * Makes the parser of completion bodies. It ignores fields that nobody knows, unless `strict`.
 * @throws ServeError 400 with `param` = dotted path of the first bad field.
 */
export function completionParser(limits: Limits, strict: boolean): (body: unknown) => CompletionBody {
  const schema = completionSchema(limits);
  return (body) => {
    if (typeof body !== "object" || body === null || Array.isArray(body)) {
      throw new ServeError(400, "the request body must be a JSON object", { code: "invalid_json" });
    }
    const parsed = schema.safeParse(body);
    if (!parsed.success) {
      const { path, message } = parsed.error.issues[0];
      const param = path.join(".");
      throw new ServeError(400, `${param}: ${message}`, { param });
    }
    for (const [name, value] of Object.entries(body)) {
      const refused = Object.hasOwn(schema.shape, name) ? null : refusal(name, value, strict);
      if (refused !== null) throw refused;
    }
    return parsed.data;
  };
}
