import type { ChatMessage } from "../../../tokenizer/index.ts";
import type { ChatNotice, ModelInfo, Params, ProviderList, Usage } from "../protocol.ts";

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
  /** Whether log probabilities of its tokens are wanted; default false. */
  readonly scores?: boolean;
  /** The user's own words, where the last turn holds passages of their documents beside them. */
  readonly question?: string;
}

/** What one model was asked for an answer. */
export interface ModelCall {
  readonly model: string;
  readonly usage: Usage;
  /** null: the price is not known. */
  readonly costMicrousd: number | null;
}

/** Who wrote an answer, and what that cost. */
export interface Answerer {
  /** Absent: the model that was asked. */
  readonly model?: string;
  /** `local`, or the name of an upstream. */
  readonly provider: string;
  /** `name@version` of the registry, or null. */
  readonly modelVersion: string | null;
  /** null: the price is not known. */
  readonly costMicrousd: number | null;
  readonly meanLogprob: number | null;
  /** All that were asked for it, whoever was heard in the end; absent: one call, of this model. */
  readonly calls?: readonly ModelCall[];
}

/** What is told of how an answer comes about. */
export type Noticed = ChatNotice["notice"];

/** Hears a piece of an answer, and where they were asked for the log probabilities of its tokens. */
export type TextListener = (text: string, logprobs?: readonly number[]) => void;

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
  /** Models that are not this server's own, for the list of them. */
  listed?(): ModelInfo[];
  /** The providers that it asks; their addresses are for admins. */
  providers?(isAdmin: boolean): ProviderList["providers"];
  /** Weights of a model of this server; null of others. */
  parameters?(model: string): number | null;
  /**
   * The name of a user's own model, where that or (null) nothing else is asked for; null: it is for others to answer.
   * @throws AppError 404 for another's model.
   */
  own?(userId: string, asked: string | null): Promise<string | null>;
  /** That model, for the list of those that the user may ask. */
  ownListed?(userId: string): Promise<ModelInfo | null>;
  /** Tokens that a prompt and its answer may have together. @throws AppError 404 for an unknown model. */
  contextLength(model: string): number;
  /** Tokens of the prompt that turns make; Infinity where they are far too many to count. */
  count(model: string, turns: readonly Turn[]): Promise<number>;
  /** Neither listener is called before this resolves. */
  start(
    request: AnswerRequest,
    onText: TextListener,
    onNotice?: (notice: Noticed) => void,
  ): Promise<RunningAnswer>;
  close?(): void;
}
