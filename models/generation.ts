/** How a prompt is continued; names and meanings are those of vLLM's `SamplingParams`. */
export interface GenerationOptions {
  /** Continuations of each prompt (1), which differ where the temperature is above 0. */
  n?: number;
  /** Tokens to write at most (256); the end of the context may come earlier. */
  max_tokens?: number;
  /** 0 takes the likeliest token each time (1). */
  temperature?: number;
  top_k?: number;
  top_p?: number;
  min_p?: number;
  /** The same seed gives the same text. */
  seed?: number | bigint;
  /** Texts that end a continuation; they are cut off. */
  stop?: readonly string[];
}

/** One continuation of a prompt. */
export interface Generated {
  text: string;
  /** The ids written, the token that ended the text included. */
  token_ids: number[];
  /** What ended it: its own end or a `stop` text, or `max_tokens` or the end of the context. */
  finish_reason: "stop" | "length";
}

/** What writes text: a decoder behind the engine of `kiln/serve`, or a masked language model. */
export interface TextGeneration {
  /** `n` continuations of each prompt (a text, or token ids as they are), in the order of the prompts. */
  generate(
    prompts: readonly (string | readonly number[])[],
    options?: GenerationOptions,
  ): Promise<Generated[][]>;
  /** Frees what it holds on the device, the model excepted; nothing may be running. */
  close(): void;
}
