import type { EncodedText } from "../../models/text_rows.ts";
import type { ConstraintSpec } from "../engine/constraint.ts";
import type { EncoderStats, EnginePort, EngineStats } from "../engine/port.ts";
import type { Queue } from "../engine/queues.ts";
import type { EngineEvent, Request } from "../engine/types.ts";
import type { Limits } from "../limits.ts";
import type { LoadSettings } from "../loading.ts";
import type { ModelFacts } from "../models.ts";

/** What goes over the channel between a server and the process of its engines: lists of these, by structured clone. */
export type Order =
  | {
      /** First of all. */
      readonly do: "open";
      readonly env: NodeJS.ProcessEnv;
      readonly limits: Limits;
      /** Milliseconds between two signs of life. */
      readonly aliveMs: number;
    }
  | { readonly do: "call"; readonly call: number; readonly task: Task }
  | {
      readonly do: "write";
      readonly model: string;
      /** Which submission of this model it is. */
      readonly turn: number;
      readonly requests: readonly WrittenRequest[];
    }
  | { readonly do: "abort"; readonly model: string; readonly id: string; readonly finish: "abort" | "stop" }
  | {
      readonly do: "read";
      readonly model: string;
      readonly turn: number;
      readonly client: string;
      readonly texts: readonly EncodedText[];
    }
  | { readonly do: "cancel"; readonly model: string; readonly turn: number };

/** What is answered when it is done. */
export type Task =
  | {
      readonly name: "load";
      readonly model: string;
      readonly path: string;
      readonly settings: LoadSettings;
      readonly cacheBytes: number;
    }
  | { readonly name: "unload"; readonly model: string }
  | { readonly name: "adapt"; readonly model: string; readonly adapter: string; readonly path: string }
  | { readonly name: "release"; readonly model: string; readonly adapter: string };

export interface WrittenRequest extends Omit<Request, "constraint"> {
  readonly constraint: ConstraintSpec | null;
}

export type Report =
  | { readonly tell: "alive" }
  | { readonly tell: "done"; readonly call: number; readonly value: Loaded | null }
  | { readonly tell: "refused"; readonly call: number; readonly error: WrittenError }
  | WritingReport
  | ReadingReport
  /** A failure that clients do not see. */
  | { readonly tell: "failed"; readonly error: WrittenError }
  /** The process cannot go on, and ends. */
  | { readonly tell: "lost"; readonly error: WrittenError };

/** What a step, or something between two, did to the sequences of a model. */
export interface WritingReport {
  readonly tell: "written";
  readonly model: string;
  readonly events: readonly WrittenEvent[];
  /** Tokens that each step since the last report has computed. */
  readonly steps: readonly number[];
  readonly stats: EngineStats;
  readonly queue: Queue;
  /** The last submission that it knows of. */
  readonly seen: number;
}

export interface WrittenEvent extends Omit<EngineEvent, "error"> {
  readonly id: string;
  readonly error: WrittenError | null;
  /** With `finish`: milliseconds from when it was accepted to its first step; null if there was none. */
  readonly queuedMs: number | null;
}

export interface ReadingReport {
  readonly tell: "readings";
  readonly model: string;
  readonly ended: readonly {
    readonly turn: number;
    readonly numbers: readonly Float32Array[];
    readonly error: WrittenError | null;
  }[];
  readonly stats: EncoderStats;
  readonly queue: Queue;
  readonly seen: number;
}

/** What the server must know of a loaded model. */
export type Loaded =
  | { readonly kind: "text"; readonly facts: ModelFacts | null; readonly runner: WriterFacts }
  | {
      readonly kind: "encoder";
      readonly facts: ModelFacts | null;
      readonly runner: { readonly vocabSize: number; readonly maxModelLen: number };
    };

export type WriterFacts = Pick<
  EnginePort["runner"],
  "vocabSize" | "maxModelLen" | "blockSize" | "blockCount"
>;

/** A KilnError or RequestError, or what is left of another. */
export interface WrittenError {
  readonly message: string;
  readonly code: string | null;
  readonly exitCode: number;
  /** Whether the client may see it: it is a RequestError. */
  readonly isRefusal: boolean;
}
