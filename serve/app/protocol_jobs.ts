/** Bodies of `/api/fine-tune` and `/api/jobs*`: part of protocol.ts, which says how they are written. */

/** `POST /api/fine-tune`, the seed's form: answers 202 with a FineTuneStarted. What is left out of `parameters` has a default. */
export interface FineTuneBody {
  user_id: string;
  parameters?: FineTuneAsked & {
    /** For admins: a model of the registry whose next version the result becomes too. */
    publish?: string;
  };
}
export interface FineTuneAsked {
  epochs?: number;
  learning_rate?: number;
  rank?: number;
  base?: string;
  /** `corrections` are learned by `dpo`, everything else by an adapter on text. */
  dataset?: "documents" | "conversations" | "corrections";
  method?: "lora" | "qlora" | "dpo";
}
export interface FineTuneStarted {
  job_id: string;
  estimate: FineTuneEstimate;
}
/** `POST /api/fine-tune/estimate` takes the same body and starts nothing. All but `examples` is about; `bytes`: of the device. */
export interface FineTuneEstimate {
  examples: number;
  tokens: number;
  steps: number;
  bytes: number;
}

/** `GET /api/jobs?kind=&limit=`, newest first. */
export interface JobInfos {
  jobs: JobInfo[];
}
/** `GET /api/jobs/:id`, `GET /api/fine-tune/:id`; `POST /api/jobs/:id/cancel` and `/resume` (a new job) answer 202 with one. */
export interface JobInfo {
  id: string;
  kind: string;
  state: "queued" | "running" | "succeeded" | "failed" | "cancelled";
  /** Whether it was asked to end, and has not yet. */
  cancelling: boolean;
  error: string | null;
  progress: number;
  attempt: number;
  created_at: number;
  started_at: number | null;
  finished_at: number | null;
  /** What was asked of a fine-tune, the job whose work it goes on with, and what came of it; null of others. */
  parameters: FineTuneAsked | null;
  resumes: string | null;
  result: FineTuneResult | null;
}
export interface FineTuneResult {
  /** `user-ID@3` */
  version: string;
  base: string;
  steps: number;
  /** In the mean of the first and of the last tenth of the updates. */
  loss: { first: number | null; last: number | null };
  validation_loss: { first: number | null; best: number | null };
  samples: { before: readonly string[]; after: readonly string[] };
  published: string | null;
}

/**
 * `GET /api/jobs/:id/events?after=SEQ&limit=`: what was told of it, in order. `data` of `step`: step, steps, loss, learning_rate,
 * tokens_per_second, eta_s; of `measured`: step, validation_loss; of an error: lines.
 */
export interface JobEvents {
  events: JobEvent[];
}
/** On the socket: how a job is now, and what was told of it last. Who lacks more than `events` before `seq` asks for them. */
export interface JobUpdate {
  type: "job.update";
  job: JobInfo;
  /** Of its newest event; 0: there is none. */
  seq: number;
  events: JobEvent[];
}
export interface JobEvent {
  seq: number;
  at: number;
  level: "info" | "warning" | "error";
  message: string;
  data: Record<string, unknown> | null;
}
