import type {
  Failure,
  Feedback,
  FeedbackReason,
  Message,
  MessageStatus,
  Params,
  Role,
  Trimmed,
  Usage,
} from "../protocol.ts";

/** What a query of messages selects: of `message m`, with the user's own `feedback f` beside it. */
export const messageColumns =
  "m.id, m.conversation_id, m.parent_id, m.role, m.content, m.status, m.model, m.model_version, m.provider, m.params, m.prompt_tokens, m.completion_tokens, m.cached_tokens, m.cost_microusd, m.ttft_ms, m.total_ms, m.mean_logprob, m.finish_reason, m.error, m.experiment_arm, m.seq, m.created_at, f.rating, f.reason, f.correction, f.created_at AS rated_at, k.blind, EXISTS (SELECT 1 FROM citation c WHERE c.message_id = m.id) AS cited";
export const withFeedback =
  "LEFT JOIN feedback f ON f.message_id = m.id AND f.user_id = m.user_id LEFT JOIN comparison k ON k.conversation_id = m.conversation_id";

export interface MessageRow {
  id: string;
  conversation_id: string;
  parent_id: string | null;
  role: Role;
  content: string;
  status: MessageStatus;
  model: string | null;
  model_version: string | null;
  provider: string | null;
  params: string | null;
  prompt_tokens: number | null;
  completion_tokens: number | null;
  cached_tokens: number | null;
  cost_microusd: number | null;
  ttft_ms: number | null;
  total_ms: number | null;
  mean_logprob: number | null;
  finish_reason: Message["finish_reason"];
  error: string | null;
  experiment_arm: string | null;
  seq: number;
  created_at: number;
  rating: Feedback["rating"] | null;
  reason: FeedbackReason | null;
  correction: string | null;
  rated_at: number | null;
  /** 1 in a comparison whose models are not told yet. */
  blind: number | null;
  /** Whether it was made from documents; 0 and 1 on SQLite. */
  cited: boolean | number;
}

/** What the column `params` holds of an answer: how it was asked for. */
export interface Asked {
  params: Params;
  trimmed: Trimmed;
  /** The `ServerRun` that writes the answer, or wrote it last. */
  writer?: string;
  /** Present where the usage is an estimate. */
  estimated?: boolean;
  unsupported?: string[];
}

/** A failure without who failed, for a comparison before its vote. */
export const blindly = (failure: Failure): Failure => ({
  ...failure,
  ...{ code: "answer_failed", message: "this answer failed" },
});

/** The message of a row. */
export function messageOf(row: MessageRow, siblings: readonly string[]): Omit<Message, "citations"> {
  const { params, prompt_tokens, completion_tokens, cached_tokens, error, ...rest } = row;
  const { rating, reason, correction, rated_at, blind, cited: _, ...own } = rest;
  const asked = params === null ? null : (JSON.parse(params) as Asked);
  const usage: Usage | null =
    prompt_tokens === null
      ? null
      : {
          prompt_tokens,
          completion_tokens: completion_tokens ?? 0,
          cached_tokens: cached_tokens ?? 0,
          estimated: asked?.estimated ?? false,
        };
  return {
    ...own,
    ...(blind === 1 && { model: null, model_version: null, provider: null, cost_microusd: null }),
    siblings: [...siblings],
    params: asked?.params ?? null,
    usage,
    tokens_per_second: tokensPerSecond(completion_tokens, row.ttft_ms, row.total_ms),
    error: error === null ? null : blind === 1 ? blindly(JSON.parse(error)) : JSON.parse(error),
    trimmed: asked?.trimmed ?? null,
    ...(asked?.unsupported && { unsupported: asked.unsupported }),
    feedback:
      rating === null ? null : { message_id: row.id, rating, reason, correction, created_at: rated_at ?? 0 },
  };
}

/** Of the tokens after the first, whose time is that of the prompt. */
export function tokensPerSecond(
  tokens: number | null,
  ttftMs: number | null,
  totalMs: number | null,
): number | null {
  if (tokens === null || tokens < 2 || ttftMs === null || totalMs === null || totalMs <= ttftMs) return null;
  const speed = ((tokens - 1) * 1000) / (totalMs - ttftMs);
  return speed > 20_000 ? null : speed; // such an answer came as a whole: one that an ensemble chose, say
}
