import { z } from "zod";
import type { StructuredOutput } from "../../../engine/grammar/index.ts";
import type { Limits } from "../../../limits.ts";
import type { ServedModel } from "../../../models.ts";
import type { TextRequest } from "../../../text/request.ts";
import { badRequest } from "../../errors.ts";
import { type RouteAdvice, refusal } from "../../fields.ts";
import { type Call, type Service, servedModel } from "../../route.ts";
import { flag } from "../text_fields.ts";

const number = z.number().nullish();

/** The options that have a meaning here. Others are refused if they would change the answer. */
function optionFields({ stops, stopChars }: Limits) {
  const stop = z.string().min(1).max(stopChars);
  return z.looseObject({
    num_predict: z.int().min(-2).nullish(),
    num_ctx: z.int().min(0).nullish(),
    temperature: number,
    top_k: number,
    top_p: number,
    min_p: number,
    seed: z.union([z.number(), z.bigint()], "must be a whole number").nullish(),
    stop: z.union([stop, z.array(stop).max(stops)], `must be a string or up to ${stops} strings`).nullish(),
    repeat_penalty: number,
    presence_penalty: number,
    frequency_penalty: number,
  });
}

/** What /api/generate and /api/chat have in common. Ollama streams unless it is told not to. */
export function answerFields(limits: Limits) {
  return {
    model: z.string().min(1),
    stream: flag,
    format: z
      .union([z.enum(["", "json"]), z.record(z.string(), z.unknown())], 'must be "json" or a JSON schema')
      .nullish(),
    options: optionFields(limits).nullish(),
    logprobs: flag,
    top_logprobs: z.int().min(0).max(limits.topLogprobs).nullish(),
    think: z.literal(false, "is not supported: the model writes what it thinks into its answer").nullish(),
  };
}

export type AnswerBody = z.infer<z.ZodObject<ReturnType<typeof answerFields>>>;

export const ADVICE: RouteAdvice = {
  length: "use options.num_predict",
  prompt: "put everything into prompt, or into messages of /api/chat",
  tools: "use tools of /api/chat",
  form: "use format",
  sampling: "give it in options, or use /v1/chat/completions",
  choices: "an answer comes alone: ask again for another",
  ids: "use /v1/chat/completions",
};

/** The same within `options`. */
const OPTION_ADVICE: RouteAdvice = { ...ADVICE, sampling: "use /v1/chat/completions, which has it" };

/** Options that change how a model is computed elsewhere, never its answer; the context is never shifted here. */
const DEFAULTS = { temperature: 0.8, top_k: 40, top_p: 0.9 };

/**
 * What the fields ask the front end for, with Ollama's defaults for temperature, top_k and top_p. Penalties count the whole
 * text here, not its last 64 tokens, so `repeat_penalty` is off unless it is given.
 * @throws HttpError 400 for an option that cannot be had.
 */
export function answerOptions({ body, caller, service }: Call<AnswerBody>): Omit<TextRequest, "prompts"> {
  const { options, top_logprobs, logprobs } = body;
  const { num_predict, num_ctx, repeat_penalty, temperature, top_k, top_p, ...others } = options ?? {};
  const { min_p, seed, stop, presence_penalty, frequency_penalty, ...rest } = others;
  const { maxModelLen } = modelOf(service, body.model);
  if (num_ctx != null && num_ctx > maxModelLen) {
    throw badRequest(
      "options.num_ctx",
      `options.num_ctx is ${num_ctx}, but this model is served with a context of ${maxModelLen} tokens: leave it out`,
    );
  }
  for (const [name, value] of Object.entries(rest)) {
    // Penalties of the last tokens only: Ollama's own default asks for nothing where there is no penalty.
    const unused = name === "repeat_last_n" && (repeat_penalty == null || repeat_penalty === 1);
    const refused = unused ? null : refusal(name, value, false, OPTION_ADVICE);
    if (refused !== null) throw badRequest(`options.${name}`, `options.${refused.message}`, refused.code);
  }
  return {
    ...{ min_p, seed, stop, presence_penalty, frequency_penalty, repetition_penalty: repeat_penalty },
    temperature: temperature ?? DEFAULTS.temperature,
    top_k: top_k ?? DEFAULTS.top_k,
    top_p: top_p ?? DEFAULTS.top_p,
    max_tokens: num_predict == null || num_predict < 0 ? null : num_predict,
    fit_context: true,
    logprobs: logprobs || top_logprobs ? (top_logprobs ?? 0) : null,
    structured: formOf(body),
    client: caller.client,
  };
}

function formOf({ format }: AnswerBody): StructuredOutput | null {
  if (format == null || format === "") return null;
  if (format === "json") return { kind: "json_object", param: "format" };
  return { kind: "json_schema", param: "format", value: format };
}

/** The name by which the server has a model: Ollama's clients say `:latest` of a model without a tag. */
export function knownName({ models }: Service, name: string): string {
  const bare = name.replace(/:latest$/, "");
  return models.get(name) === undefined && models.get(bare) !== undefined ? bare : name;
}

/** @throws HttpError 404. */
export function modelOf(service: Service, name: string): ServedModel {
  return servedModel(service, knownName(service, name));
}
