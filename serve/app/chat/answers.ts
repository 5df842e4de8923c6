import type { ChatMessage } from "../../../tokenizer/index.ts";
import type { Params, Usage } from "../protocol.ts";

/** A turn as a model reads it. */
export type Turn = Pick<ChatMessage, "role" | "content"> & { content: string };

/** What is asked of a model. */
export interface AnswerRequest {
  readonly model: string;
  readonly turns: readonly Turn[];
  readonly params: Params;
  /** Shares the model evenly with others. */
  readonly client: string;
  /** Whether the last turn is an answer to go on writing. */
  readonly continues: boolean;
}

/** An answer that is being written. */
export interface RunningAnswer {
  /** Resolves at its end; rejects where it failed. */
  readonly done: Promise<"stop" | "length">;
  /** Up to now. */
  usage(): Usage;
  /** Ends it: within a step nothing of it runs any more. */
  stop(): void;
}

/** Who writes answers. */
export interface AnswerSource {
  /** The names that can be asked for, the default first. */
  models(): string[];
  /** Tokens that a prompt and its answer may have together. @throws AppError 404 for an unknown model. */
  contextLength(model: string): number;
  /** Tokens of the prompt that turns make; Infinity where they are far too many to count. */
  count(model: string, turns: readonly Turn[]): Promise<number>;
  /** `onText` is not called before this resolves. */
  start(request: AnswerRequest, onText: (text: string) => void): Promise<RunningAnswer>;
}
