import { setImmediate as nextTurn } from "node:timers/promises";
import { cutEncoding } from "../../models/text_reader.ts";
import type { EncodedText } from "../../models/text_rows.ts";
import type { Tokenizer } from "../../tokenizer/index.ts";
import { invalid, RequestError } from "../engine/errors.ts";
import type { EncoderPort } from "../engine/port.ts";
import type { Limits } from "../limits.ts";

/** A text, its token ids as they are, or a pair of texts that are read together. */
export type EncoderInput = string | readonly number[] | readonly [string, string];

export interface EncoderRequest {
  /** At least one. */
  readonly inputs: readonly EncoderInput[];
  /** Who asks: clients share the model evenly. */
  readonly client: string;
  /** Tokens that count of each text, special ones too; -1: as many as the model reads. Absent: a longer text is refused. */
  readonly truncate?: number | null | undefined;
  /** What the client gives to have a text cut. */
  readonly advice?: string;
  /** The field that refusals name; default `input`. */
  readonly param?: string;
}

/** One accepted request. */
export interface EncoderJob {
  readonly promptTokens: number;
  /** The texts as tokens, in order. */
  readonly texts: readonly EncodedText[];
  /** Numbers of each text, in order; rejects with the RequestError that ended the request. */
  readonly done: Promise<readonly Float32Array[]>;
  cancel(): void;
}

interface Labelled {
  readonly labels: readonly string[];
  /** Of a text's logits, a number for each label. */
  readonly scores: (logits: Float32Array) => readonly number[];
}

/** What an encoder makes of a text: a vector, how likely each label is, or (mostly of a pair) one score. */
export type EncoderTask =
  | {
      readonly name: "embed";
      /** Numbers of a vector. */
      readonly width: number;
      /** Whether the first numbers of a vector are a vector too, or how many of them are. */
      readonly matryoshka: readonly number[] | boolean;
    }
  | (Labelled & { readonly name: "classify" })
  | (Labelled & { readonly name: "score" });

/** Turns texts into the requests of an encoder's engine. One for each model. */
export class EncoderFrontend<Task extends EncoderTask = EncoderTask> {
  readonly engine: EncoderPort;
  readonly task: Task;
  readonly tokenizer: Tokenizer;
  readonly #limits: Pick<Limits, "charsPerToken">;

  constructor(engine: EncoderPort, tokenizer: Tokenizer, task: Task, limits: Pick<Limits, "charsPerToken">) {
    this.engine = engine;
    this.task = task;
    this.tokenizer = tokenizer;
    this.#limits = limits;
  }

  /** Tokenises the inputs and gives them to the engine. @throws RequestError for what cannot be read, or not now. */
  async start(request: EncoderRequest): Promise<EncoderJob> {
    const { inputs, client } = request;
    this.engine.checkRoom(client, inputs.length, 0);
    const texts: EncodedText[] = [];
    let promptTokens = 0;
    for (const [i, input] of inputs.entries()) {
      const text = await this.#encode(input, i, request);
      promptTokens += text.ids.length;
      texts.push(text);
      // Other requests get their turn between the texts of a large one.
      if (i % 16 === 15) await nextTurn();
    }
    return { promptTokens, texts, ...this.engine.submit(client, texts) };
  }

  /** The ids of a text of any length that the tokenizer is given. @throws RequestError for one past that. */
  async encode(
    text: string,
    { add_special_tokens = true }: { add_special_tokens?: boolean },
  ): Promise<{ count: number; ids: readonly number[] | null }> {
    const { maxModelLen } = this.engine.runner;
    const mostChars = maxModelLen * this.#limits.charsPerToken;
    if (text.length > mostChars) {
      const message = `this model reads ${maxModelLen} tokens at most, but the text has over ${mostChars} characters; shorten it`;
      throw new RequestError("context_length_exceeded", message, { param: "prompt" });
    }
    return this.tokenizer.encodeUpTo(Infinity, text, { addSpecialTokens: add_special_tokens });
  }

  async #encode(input: EncoderInput, index: number, request: EncoderRequest): Promise<EncodedText> {
    const { param = "input", inputs, truncate, advice = "truncate_prompt_tokens" } = request;
    const { maxModelLen, vocabSize } = this.engine.runner;
    const longest = truncate == null || truncate < 0 ? maxModelLen : Math.min(truncate, maxModelLen);
    const which = inputs.length > 1 ? `text ${index} ` : "the text ";
    const tooLong = (has: string) =>
      new RequestError(
        "context_length_exceeded",
        `this model reads ${maxModelLen} tokens at most, but ${which}has ${has}; shorten it, or give ${advice}`,
        { param },
      );
    if (isIds(input)) {
      const unknown = input.some((id) => !(Number.isInteger(id) && id >= 0 && id < vocabSize));
      if (unknown) throw invalid(param, `token ids must be integers from 0 to ${vocabSize - 1}`);
      if (input.length > longest && truncate == null) throw tooLong(`${input.length}`);
      return { ids: input.slice(0, longest) };
    }
    const mostChars = maxModelLen * this.#limits.charsPerToken;
    if (truncate == null && [input].flat().some(({ length }) => length > mostChars))
      throw tooLong(`over ${mostChars} characters`);
    const cut = <T extends string | readonly [string, string]>(given: T) =>
      (typeof given === "string"
        ? given.slice(0, mostChars)
        : given.map((part) => part.slice(0, mostChars))) as T;
    const [encoding] = await this.tokenizer.encodeTexts([cut(input as string | readonly [string, string])]);
    const size = encoding.ids.length;
    if (size === 0) throw invalid(param, `${which}has no tokens: give one that is not empty`);
    if (size > longest && truncate == null) throw tooLong(`${size}`);
    const { ids, typeIds } = cutEncoding(encoding, longest);
    const unknown = ids.find((id) => id >= vocabSize);
    if (unknown === undefined) return { ids, typeIds };
    throw invalid(
      param,
      `${which}holds token ${unknown}, which the tokenizer has but the model has not (its vocab_size is ${vocabSize}); ` +
        "leave that token out, or use the tokenizer that belongs to the model",
    );
  }
}

const isIds = (input: EncoderInput): input is readonly number[] =>
  typeof input !== "string" && typeof input[0] !== "string";
