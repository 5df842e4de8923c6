import { z } from "zod";
import type { Limits } from "../../limits.ts";
import type { TextRequest } from "../../text/request.ts";
import { badRequest } from "../errors.ts";
import { priorityOf } from "../gate.ts";
import type { Call } from "../route.ts";

/** Types and sizes of the fields that every route which generates text has; the front end checks the ranges. */
export function textFields(limits: Limits) {
  const stop = z.string().min(1).max(limits.stopChars);
  return {
    model: z.string().min(1),
    max_tokens: z.int().min(0).nullish(),
    temperature: number,
    top_p: number,
    n: z.int().min(1).max(limits.n).nullish(),
    stream: flag,
    stream_options: z
      .object({ include_usage: flag, continuous_usage_stats: flag, include_obfuscation: flag })
      .nullish(),
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
  };
}

const number = z.number().nullish();
export const flag = z.boolean().nullish();

/** A list whose items are counted before any of them is looked at. */
function atMost<T extends z.ZodType>(count: number, item: T) {
  return z.array(z.unknown()).max(count).pipe(z.array(item));
}

type TextBody = z.infer<z.ZodObject<ReturnType<typeof textFields>>>;

/** What those fields ask the front end for. @throws HttpError. */
export function textOptions({ body, caller }: Call<TextBody>): Omit<TextRequest, "prompts"> {
  if (body.stream_options != null && !body.stream) {
    throw badRequest("stream_options", "stream_options is allowed only with stream: true");
  }
  return { ...body, client: caller.client, priority: priorityOf(caller, body.priority) };
}
