/** Bodies of `/api/*` about feedback, experiments, analytics and data: part of protocol.ts, which says how they are written. */

// ---- feedback ----

export type FeedbackReason =
  | "incorrect"
  | "off_topic"
  | "incomplete"
  | "repetitive"
  | "unsafe"
  | "style"
  | "other";

/** `POST /api/feedback`: one per message and user; sent again it replaces, `rating: 0` takes it back. Answers with the Feedback. */
export interface FeedbackBody {
  message_id: string;
  rating: -1 | 0 | 1;
  reason?: FeedbackReason | null;
  /** What the answer should have been. */
  correction?: string | null;
}
export interface Feedback {
  message_id: string;
  rating: -1 | 0 | 1;
  reason: FeedbackReason | null;
  correction: string | null;
  created_at: number;
}

/** `POST /api/preferences`: a vote between answers to one prompt. A blind comparison ends here: the answer says who was who. */
export interface PreferenceBody {
  prompt_message_id: string;
  /** All answers that were shown. */
  message_ids: string[];
  outcome: "chosen" | "tie" | "both_bad";
  /** With the outcome `chosen`. */
  chosen_message_id?: string;
  source: "arena" | "regenerate";
}
export interface PreferenceResult {
  /** By message id. */
  models: Record<string, string>;
}

// ---- experiments ----

/** `GET /api/experiments`, newest first; `GET /api/experiments/:id` one of them. */
export interface ExperimentList {
  experiments: Experiment[];
}

/** `POST /api/experiments` answers 201 with the Experiment, running. `split`: the treatment's share. */
export interface NewExperiment {
  name: string;
  /** `name@alias` or `name@version`; the control's name is what people go on asking for. */
  control: string;
  treatment: string;
  split?: number;
  unit?: "user" | "conversation";
  alpha?: number;
}

/** `POST /api/experiments/:id/stop` has no body, `.../promote` this one; both answer with the Experiment. */
export interface PromoteBody {
  arm: string;
}

export interface Experiment {
  id: string;
  name: string;
  state: "running" | "stopped" | "promoted";
  unit: "user" | "conversation";
  metric: "thumbs_up_rate";
  alpha: number;
  tau2: number;
  /** The control first. */
  arms: ExperimentArm[];
  /** Of treatment minus control, up to now. */
  result: ExperimentResult;
  /** The result at the end of each day. */
  history: { at: number; difference: number | null; low: number | null; high: number | null }[];
  started_at: number;
  stopped_at: number | null;
  /** What was decided, as a sentence. */
  decision: string | null;
}

export interface ExperimentArm {
  /** `name@version` */
  name: string;
  weight: number;
  /** Units that an answer of this arm has reached. */
  exposed: number;
  rated: number;
  up: number;
  /** Of thumbs up, with its Wilson interval of 95%; null before the first vote. */
  rate: number | null;
  low: number | null;
  high: number | null;
  regenerate_rate: number | null;
  stop_rate: number | null;
  error_rate: number | null;
  ttft_p95_ms: number | null;
}

export interface ExperimentResult {
  difference: number | null;
  /** The always-valid interval at 1 - alpha. */
  low: number | null;
  high: number | null;
  p_value: number;
  significant: boolean;
  /** Whether people were split as the weights say; when not, nothing may be decided. */
  sample_ratio: { p_value: number; ok: boolean };
  /** Rated units per arm that a fixed test would need to see 10 points; null without votes. */
  needed_per_arm: number | null;
}

// ---- analytics ----

/**
 * `GET /api/analytics?from=DAY&to=DAY&model=NAME&by=model`, both days included, without `model` of all; `by` model or user adds
 * `groups`. An admin sees everybody's numbers, others their own. Every number can be counted again from the events; a day without
 * anything is not listed.
 */
export interface Analytics {
  from: string;
  to: string;
  /** All that answered in the range, whatever `model` chose. */
  models: string[];
  totals: AnalyticsTotals;
  groups?: (AnalyticsTotals & { name: string })[];
  messages: { day: string; model: string; count: number }[];
  /** `exact` false: from histograms with steps of 5%. */
  latency: {
    day: string;
    answers: number;
    ttft_p50_ms: number;
    ttft_p95_ms: number;
    speed_p50: number | null;
    speed_p95: number | null;
    exact: boolean;
  }[];
  /** Share of thumbs up among rated answers, with its Wilson interval of 95%. */
  thumbs: {
    day: string;
    up: number;
    rated: number;
    answers: number;
    rate: number;
    low: number;
    high: number;
  }[];
  failures: { day: string; errors: number; fallbacks: number; stopped: number; regenerated: number }[];
  /** `cost_microusd` sums the known ones; `unknown_price`: requests without a price. */
  usage: {
    day: string;
    prompt_tokens: number;
    completion_tokens: number;
    cost_microusd: number;
    unknown_price: number;
    estimated: number;
  }[];
  /** Answers by their quality, low <= q < high. */
  quality: { low: number; high: number; count: number }[];
  /** Of those who came on one day, how many came back n days later. */
  retention: { days: number; users: number; returned: number }[];
}
export interface AnalyticsTotals {
  /** Of messages with less than 30 minutes between them. */
  sessions: number;
  users: number;
  messages: number;
  /** That have ended, one way or the other. */
  answers: number;
  regenerate_rate: number | null;
  stop_rate: number | null;
  /** Rated of all answers. */
  coverage: number | null;
}

/** `GET /api/usage?from=DAY&to=DAY` */
export interface UsageReport {
  rows: {
    day: string;
    user_id: string;
    model: string;
    requests: number;
    prompt_tokens: number;
    completion_tokens: number;
    cost_microusd: number;
    unknown_price: number;
    estimated: number;
  }[];
}

// ---- data ----

interface Spread {
  mean: number;
  p50: number;
  p95: number;
  max: number;
}

/** `GET /api/data/statistics`: of the caller's conversations whose consent is on. */
export interface DataStatistics {
  total_conversations: number;
  total_messages: number;
  turns: Spread;
  /** By role. */
  chars: Record<string, Spread>;
  tokens: Record<string, Spread>;
  sessions: number;
  models: Record<string, number>;
  /** `rate` of thumbs up with its Wilson interval of 95%; null before the first. */
  ratings: { up: number; down: number; rate: number | null; low: number | null; high: number | null };
  languages: Record<string, number>;
  per_day: { day: string; count: number }[];
  duplicates: { exact: number; near: number };
  type_token_ratio: number | null;
  /** Conversations by their characters, low <= n < high. */
  lengths: { low: number; high: number; count: number }[];
}

/** `POST /api/data/preview`: what the cleaner would do to a sample of them, and to all in numbers. Nothing is written. */
export interface PreviewBody {
  rules?: {
    /** What becomes of URLs, addresses, phone numbers, cards and secrets. */
    personal?: "redact" | "remove" | "drop" | "keep";
    min_chars?: number;
    max_chars?: number;
    near_duplicates?: "keep_first" | "keep_best" | "drop_all" | "keep";
  };
  /** Changed rows to show, at most 200. */
  sample?: number;
}
export interface PreviewResult {
  total: number;
  kept: number;
  /** By reason; they sum up to total - kept. */
  dropped: Record<string, number>;
  changed: { conversation_id: string; role: string; before: string; after: string; changes: string[] }[];
  dropped_rows: { conversation_id: string; reason: string; detail: string; text: string }[];
  duplicates: {
    similarity: number;
    kept: { conversation_id: string; text: string };
    dropped: { conversation_id: string; text: string };
  }[];
}

/**
 * `GET /api/data/export?format=FORMAT` downloads them as a file; `preference`: the rated answers with a correction or a sibling
 * that was preferred. `GET /api/conversations/:id/export?format=` has one conversation, whatever its consent, and
 * `GET /api/me/data?format=` all of them.
 */
export type ExportFormat =
  | "jsonl"
  | "json"
  | "chatml"
  | "alpaca"
  | "instruction"
  | "sharegpt"
  | "openai"
  | "csv"
  | "parquet"
  | "preference";
