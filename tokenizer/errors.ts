/** A tokenizer problem worded for the person at the keyboard: one line, what is wrong and how to mend it. */
export class TokenizerError extends Error {
  constructor(message: string, cause?: unknown) {
    super(message, cause === undefined ? undefined : { cause });
    this.name = "TokenizerError";
  }
}
