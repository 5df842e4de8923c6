import { z } from "zod";
import { ServeError } from "../errors.ts";
import type { Limits } from "../limits.ts";

/** Fields that some servers know and this one does not: refused, since ignoring them would change the answer. */
const UNSUPPORTED = [
  "suffix",
  "structured_outputs",
  "guided_json",
  "guided_regex",
  "guided_choice",
  "guided_grammar",
  "response_format",
  "allowed_token_ids",
  "bad_words",
  "truncate_prompt_tokens",
  "prompt_logprobs",
  "use_beam_search",
];

function completionSchema(limits: Limits) {
  const number = z.number().nullish();
  const flag = z.boolean().nullish();
  const stop = z
    .string()
    .min(1)
    .max(limits.stopChars)
    .refine((text) => !/\p{Surrogate}/u.test(text), "must be well-formed text");
  return z.object({
    model: z.string().min(1),
    prompt: z.unknown(),
    max_tokens: z.int().min(0).nullish(),
    temperature: number,
    top_p: number,
    n: z.int().min(1).max(limits.n).nullish(),
    best_of: z.int().min(0).max(limits.bestOf).nullish(),
    stream: flag,
    stream_options: z.object({ include_usage: flag, continuous_usage_stats: flag }).nullish(),
    logprobs: z.int().min(0).max(limits.logprobs).nullish(),
    echo: flag,
    stop: z
      .union([stop, z.array(stop).max(limits.stops)], `must be a string or up to ${limits.stops} strings`)
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
    seed: number,
    user: z.string().nullish(),
    top_k: number,
    min_p: number,
    repetition_penalty: number,
    stop_token_ids: z.array(z.int().min(0)).max(limits.stopTokenIds).nullish(),
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
 * Makes the parser of completion bodies. It ignores unknown fields.
 * @throws ServeError 400 with `param` = dotted path of the first bad field.
 */
export function completionParser(limits: Limits): (body: unknown) => CompletionBody {
  const schema = completionSchema(limits);
  return (body) => {
    if (typeof body !== "object" || body === null || Array.isArray(body)) {
      throw new ServeError(400, "the request body must be a JSON object", { code: "invalid_json" });
    }
    const parsed = schema.safeParse(body);
    if (!parsed.success) {
      const { path, message } = parsed.error.issues[0]!;
      const param = path.join(".");
      throw new ServeError(400, `${param}: ${message}`, { param });
    }
    for (const name of UNSUPPORTED) {
      const value = (body as Record<string, unknown>)[name];
      if (value == null || value === false || value === "") continue;
      throw new ServeError(400, `${name} is not supported by this server`, {
        param: name,
        code: "unsupported_parameter",
      });
    }
    return parsed.data;
  };
}

/** Parses JSON nested at most `maxDepth` deep. @throws ServeError 400. */
export function parseJson(text: string, maxDepth: number): unknown {
  let depth = 0;
  let inString = false;
  for (let i = 0; i < text.length; i++) {
    const char = text.charCodeAt(i);
    if (inString) {
      if (char === 0x5c) i++;
      else if (char === 0x22) inString = false;
    } else if (char === 0x22) inString = true;
    else if (char === 0x7b || char === 0x5b) {
      if (++depth > maxDepth) {
        throw new ServeError(400, `the JSON body is nested deeper than ${maxDepth}`, {
          code: "invalid_json",
        });
      }
    } else if (char === 0x7d || char === 0x5d) depth--;
  }
  try {
    return JSON.parse(text);
  } catch {
    throw new ServeError(400, "the request body is not valid JSON", { code: "invalid_json" });
  }
}
