import { KilnError } from "../core/errors.ts";

/** A tokenizer that cannot be loaded, trained or used. */
export class TokenizerError extends KilnError {
  constructor(message: string, cause?: unknown) {
    super(message, { code: "bad_tokenizer", cause });
    this.name = "TokenizerError";
  }
}
