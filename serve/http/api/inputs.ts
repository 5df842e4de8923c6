import { randomUUID } from "node:crypto";
import { z } from "zod";
import type { EncoderJob } from "../../text/encoder_frontend.ts";
import { badRequest } from "../errors.ts";
import type { RouteAdvice } from "../fields.ts";

/**
 * The texts of a field that holds a string, a list of strings, token ids, or lists of token ids, `most` at most.
 * @throws HttpError 400.
 */
export function textList(param: string, value: unknown, most: number): (string | number[])[] {
  const bad = (message: string) => badRequest(param, `${param} ${message}`);
  const forms = "a string, a list of strings, token ids, or lists of token ids";
  if (value == null) throw bad(`is missing: give ${forms}`);
  const list = typeof value === "string" ? [value] : value;
  if (!Array.isArray(list)) throw bad(`must be ${forms}`);
  if (list.length > most && typeof list[0] !== "number")
    throw bad(`may hold ${most} texts at most, this has ${list.length}`);
  if (list.length === 0 || list.some((item) => item === "" || (Array.isArray(item) && item.length === 0)))
    throw bad("must not be empty");
  if (list.every(isNumber)) return [list];
  if (list.every((item) => typeof item === "string")) return list;
  if (list.every((item) => Array.isArray(item) && item.every(isNumber))) return list;
  throw bad("must not mix strings and token ids");
}

const isNumber = (item: unknown) => typeof item === "number";

/** What refusals on these routes advise; `texts` are the fields that hold them. */
export const encoderAdvice = (texts: string): RouteAdvice => ({
  length: "nothing is written here: leave it out",
  prompt: `give the texts as ${texts}`,
  tools: "nothing is written here: leave it out",
});

/** Fields of the routes that give texts to an encoder. */
export const truncation = {
  truncate_prompt_tokens: z
    .int()
    .min(-1)
    .refine((count) => count !== 0, "must be -1 or a number of tokens from 1")
    .nullish(),
};

/** OpenAI's `usage` of texts that were read, with nothing written. */
export const encoderUsage = ({ promptTokens }: EncoderJob) => ({
  prompt_tokens: promptTokens,
  total_tokens: promptTokens,
});

/** What the answers of vLLM's encoder routes begin with. */
export const encoderHeader = (prefix: string, model: string) => ({
  id: `${prefix}-${randomUUID().replaceAll("-", "")}`,
  object: "list",
  created: Math.floor(Date.now() / 1000),
  model,
});
