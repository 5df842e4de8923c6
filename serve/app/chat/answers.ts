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

/** Who wrote an answer, and what that cost. */
export interface Answerer {
  /** `local`, or the name of an upstream. */
  readonly provider: string;
  /** `name@version` of the registry, or null. */
  readonly modelVersion: string | null;
  /** null: the price is not known. */
  readonly costMicrousd: number | null;
  readonly meanLogprob: number | null;
}

export const LOCAL_ANSWERER: Answerer = {
  ...{ provider: "local", modelVersion: null, costMicrousd: 0, meanLogprob: null },
};

/** An answer that is being written. */
export interface RunningAnswer {
  /** Resolves at its end; rejects where it failed. */
  readonly done: Promise<"stop" | "length">;
  /** Up to now. */
  usage(): Usage;
  /** Who writes it, as far as that is known now; absent: a model of this server that no registry knows. */
  by?(): Answerer;
  /** Ends it: within a step nothing of it runs any more. */
  stop(): void;
}

/** Who writes answers. */
export interface AnswerSource {
  /** The names that can be asked for, the default first. */
  models(): string[];
  /** The model's own name, which is `name@version` of one from the registry, for what it is asked by; null: there is none. */
  versionOf(model: string): string | null;
  /** Tokens that a prompt and its answer may have together. @throws AppError 404 for an unknown model. */
  contextLength(model: string): number;
  /** Tokens of the prompt that turns make; Infinity where they are far too many to count. */
  count(model: string, turns: readonly Turn[]): Promise<number>;
  /** `onText` is not called before this resolves. */
  start(request: AnswerRequest, onText: (text: string) => void): Promise<RunningAnswer>;
}
