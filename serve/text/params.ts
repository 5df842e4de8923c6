import { describe, KilnError, nearestName } from "../../core/errors.ts";
import type { SamplingParams } from "./request.ts";

/** What a value must be, and whether it is. */
type Kind = readonly [words: string, fits: (value: unknown) => boolean];

const whole = (least: number): Kind => [
  `a whole number, ${least} or more`,
  (value) => Number.isSafeInteger(value) && (value as number) >= least,
];
const number: Kind = ["a number", (value) => typeof value === "number" && !Number.isNaN(value)];
const flag: Kind = ["true or false", (value) => typeof value === "boolean"];
const isList = (value: unknown, type: string) =>
  Array.isArray(value) && value.every((item) => typeof item === type);
const texts: Kind = ["a list of texts", (value) => isList(value, "string")];
const ids: Kind = [
  "a list of token ids",
  (value) => isList(value, "number") && (value as number[]).every((id) => Number.isInteger(id) && id >= 0),
];
const isObject = (value: unknown) => typeof value === "object" && value !== null && !Array.isArray(value);

const PARAMS: Record<keyof SamplingParams, Kind> = {
  n: whole(1),
  best_of: whole(1),
  max_tokens: whole(0),
  min_tokens: whole(0),
  temperature: number,
  top_k: whole(-1),
  top_p: number,
  min_p: number,
  repetition_penalty: number,
  frequency_penalty: number,
  presence_penalty: number,
  logit_bias: ["an object of token ids and numbers", (value) => isObject(value)],
  seed: ["a whole number", (value) => typeof value === "number" || typeof value === "bigint"],
  stop: ["a text or a list of texts", (value) => typeof value === "string" || isList(value, "string")],
  stop_token_ids: ids,
  ignore_eos: flag,
  allowed_token_ids: ids,
  bad_words: texts,
  truncate_prompt_tokens: whole(-1),
  prompt_logprobs: whole(0),
  include_stop_str_in_output: flag,
  structured: ["an object { kind, value }", (value) => isObject(value)],
  skip_special_tokens: flag,
  logprobs: whole(0),
};

/**
 * The parameters of a program, which no compiler may have seen: names and types are checked here, as a server's schema does;
 * ranges are checked with the model.
 * @throws KilnError for an unknown name, and a value of another type
 */
export function checkParams<P extends object>(params: P): P {
  if (!isObject(params))
    throw new KilnError(`parameters are given by name, as { max_tokens: … }, not as ${describe(params)}`);
  for (const [name, value] of Object.entries(params)) {
    const kind = Object.hasOwn(PARAMS, name) ? PARAMS[name as keyof SamplingParams] : null;
    if (kind === null) throw unknown(name);
    const [words, fits] = kind;
    if (value != null && !fits(value))
      throw new KilnError(`${name} must be ${words}, not ${describe(value)}`);
  }
  return params;
}

function unknown(name: string): KilnError {
  const names = Object.keys(PARAMS);
  const near = nearestName(
    name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`),
    names,
  );
  const hint = near ? `did you mean ${near}?` : `they are ${names.join(", ")}`;
  return new KilnError(`there is no parameter ${name.slice(0, 50)}; ${hint}`);
}
