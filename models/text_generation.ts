import { checkOptions, KilnError } from "../core/errors.ts";
import { type ChatMessage, ChatTemplate, type Tokenizer } from "../tokenizer/index.ts";
import type { TextGeneration } from "./generation.ts";

/** A text with its continuation, or a conversation with the reply at its end. */
export interface GeneratedText<I = string> {
  generated_text: I;
}
/** What is continued: a text, or a conversation, which the tokenizer's chat template writes out. */
type Input = string | ChatMessage[];

export interface TextGenerationOptions {
  /** Tokens to write at most (256). */
  max_new_tokens?: number;
  /** False, the default: the likeliest token each time. */
  do_sample?: boolean;
  /** These count with `do_sample` only; unlike transformers' 50, `top_k` is off by default. */
  temperature?: number;
  top_k?: number;
  top_p?: number;
  min_p?: number;
  /** Continuations of each input (1), a list each. */
  num_return_sequences?: number;
  /** False: the continuation without its prompt. A conversation is always whole. */
  return_full_text?: boolean;
  /** The same seed gives the same text. */
  seed?: number | bigint;
}

export type TextGenerationPipeline = <I extends Input | string[] | ChatMessage[][]>(
  inputs: I,
  options?: TextGenerationOptions,
) => Promise<I extends string[] | ChatMessage[][] ? GeneratedText<I[number]>[][] : GeneratedText<I>[]>;

const known = ["max_new_tokens", "do_sample", "temperature", "top_k", "top_p", "min_p"].concat([
  "num_return_sequences",
  "return_full_text",
  "seed",
]);

const isChat = (input: unknown): input is ChatMessage[] =>
  Array.isArray(input) && input.length > 0 && typeof input[0] === "object" && !Array.isArray(input[0]);

/**
 * The pipeline over anything that writes text. Errors: options that count for nothing; a conversation where the tokenizer has
 * no chat template; what the generator refuses.
 */
export function textGeneration(generator: TextGeneration, tokenizer: Tokenizer): TextGenerationPipeline {
  const promptOf = async (input: Input) => {
    if (typeof input === "string") return input;
    if (tokenizer.chatTemplate === null)
      throw new KilnError(
        "the tokenizer has no chat template: give a text, or take a model that was taught to chat (kiln train sft)",
      );
    const chat = await new ChatTemplate(tokenizer).encode({ messages: input }, { addGenerationPrompt: true });
    return chat.ids;
  };
  return (async (inputs: Input | Input[], options: TextGenerationOptions = {}) => {
    const given = checkOptions("text-generation", options, known);
    const { max_new_tokens: max_tokens = 256, num_return_sequences: n = 1, ...others } = given;
    const { do_sample = false, return_full_text = true, seed, ...sampling } = others;
    const idle = Object.keys(sampling)[0] ?? (n === 1 ? undefined : "num_return_sequences");
    if (!do_sample && idle)
      throw new KilnError(`${idle} changes nothing without do_sample: true; set that, or leave it out`);
    const isOne = typeof inputs === "string" || isChat(inputs);
    const list = (isOne ? [inputs] : inputs) as Input[];
    const prompts = await Promise.all(list.map(promptOf));
    const how = do_sample ? sampling : { temperature: 0 };
    const written = await generator.generate(prompts, {
      max_tokens,
      n,
      ...how,
      ...(seed !== undefined && { seed }),
    });
    const answers = list.map((input, i) =>
      written[i].map(({ text }) => {
        if (typeof input !== "string")
          return { generated_text: [...input, { role: "assistant", content: text }] };
        return { generated_text: return_full_text ? input + text : text };
      }),
    );
    return isOne ? answers[0] : answers;
  }) as TextGenerationPipeline;
}
