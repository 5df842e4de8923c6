import { z } from "zod";
import type { StructuredOutput } from "../../engine/grammar/index.ts";
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
    allowed_token_ids: atMost(limits.allowedTokenIds, z.int().min(0)).nullish(),
    bad_words: atMost(limits.badWords, z.string().max(limits.badWordChars)).nullish(),
    prompt_logprobs: z.int().min(0).max(limits.promptLogprobs).nullish(),
    truncate_prompt_tokens: z.int().nullish(),
    skip_special_tokens: flag,
    include_stop_str_in_output: flag,
    return_token_ids: flag,
    priority: z.int().min(-1000).max(1000).nullish(),
    cache_salt: z.string().min(1).max(limits.cacheSaltChars).nullish(),
    response_format: z
      .discriminatedUnion("type", [
        z.object({ type: z.literal("text") }),
        z.object({ type: z.literal("json_object") }),
        z.object({
          type: z.literal("json_schema"),
          json_schema: z.object({ schema: z.unknown().optional() }),
        }),
      ])
      .nullish(),
    structured_outputs: z
      .strictObject({
        json: z.unknown().optional(),
        json_object: flag,
        regex: z.string().nullish(),
        choice: choice.nullish(),
      })
      .nullish(),
    guided_json: z.unknown().optional(),
    guided_regex: z.string().nullish(),
    guided_choice: choice.nullish(),
  };
}

const choice = z.array(z.string()).min(1);

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
  if (body.stream && body.prompt_logprobs != null) {
    throw badRequest("prompt_logprobs", "prompt_logprobs cannot be streamed; leave stream out");
  }
  const structured = structuredOutput(body);
  return { ...body, structured, client: caller.client, priority: priorityOf(caller, body.priority) };
}

/** The form of the answer that one of OpenAI's and vLLM's fields asks for. @throws HttpError for two of them. */
function structuredOutput(body: TextBody): StructuredOutput | null {
  const { response_format: format, structured_outputs: outputs } = body;
  const asked: StructuredOutput[] = [];
  const ask = (kind: StructuredOutput["kind"], param: string, value: unknown) => {
    if (value != null) asked.push({ kind, param, value } as StructuredOutput);
  };
  if (format?.type === "json_object") ask("json_object", "response_format", true);
  if (format?.type === "json_schema") {
    const { schema } = format.json_schema;
    if (schema == null) throw badRequest("response_format", "response_format.json_schema.schema is missing");
    ask("json_schema", "response_format", schema);
  }
  ask("json_schema", "structured_outputs", outputs?.json);
  // The schema false is one that nothing fits, but no JSON object is no form.
  ask("json_object", "structured_outputs", outputs?.json_object || null);
  ask("regex", "structured_outputs", outputs?.regex);
  ask("choice", "structured_outputs", outputs?.choice);
  ask("json_schema", "guided_json", body.guided_json);
  ask("regex", "guided_regex", body.guided_regex);
  ask("choice", "guided_choice", body.guided_choice);
  if (asked.length > 1) {
    throw badRequest(asked[1].param!, `${asked[1].param} asks for a second form of the same answer`);
  }
  return asked[0] ?? null;
}
