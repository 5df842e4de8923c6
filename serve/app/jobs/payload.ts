import type { Job } from "../../store/jobs.ts";
import type { FineTuneResult } from "../protocol.ts";

/** What one asks of a fine-tune, of the seed's form. */
export interface FineTuneParameters {
  readonly epochs: number;
  readonly learning_rate: number;
  readonly rank: number;
  readonly method: "lora" | "qlora" | "dpo";
  readonly dataset: "documents" | "conversations" | "corrections";
  /** The served model that is adapted. */
  readonly base: string;
}

/** What a worker needs to know of a fine-tune. */
export interface FineTunePayload {
  readonly parameters: FineTuneParameters;
  /** The recipe of `kiln train`, and its settings but for where files are. */
  readonly recipe: "sft" | "preference";
  readonly settings: Readonly<Record<string, object>>;
  /** What is learned from: keys of blobs, and the endings that say how they are read. */
  readonly files: readonly { readonly key: string; readonly ending: string }[];
  /** What the result is called in the registry, and the model that it is for. */
  readonly name: string;
  readonly base: string;
  /** Of the job whose work it goes on with; absent: its own. */
  readonly run?: string;
  /** For admins: the model whose next version it becomes, too, with the adapter merged into its base. */
  readonly publish?: string;
}

export const payloadOf = (job: Job): FineTunePayload => job.payload as FineTunePayload;

/** What came of a fine-tune. */
export type FineTuned = Readonly<FineTuneResult>;
