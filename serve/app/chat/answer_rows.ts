import { indexMessages, type Store } from "../../store/index.ts";
import type { AnswerRows } from "./generation.ts";

/**
 * How far the numbers of events jump where an answer was cut off by the end of the server: clients may have seen more events
 * than the row, and the numbers that follow must be greater.
 */
const SEQ_JUMP = 10_000;

/** Keeps answers in the table `message`, and counts them in `usage_day`. */
export function answerRows(store: Store): AnswerRows {
  return {
    async flush(id, text, seq) {
      await store.run("UPDATE message SET content = ?, seq = ? WHERE id = ?", [text, seq, id]);
    },
    finish: ({ messageId: id, options: { accepted, userId, before } }, outcome) => {
      const { text, usage, failure } = outcome;
      return store.transaction(async (tx) => {
        await tx.run(
          "UPDATE message SET content = ?, status = ?, seq = ?, provider = 'local', prompt_tokens = ?, completion_tokens = ?, cached_tokens = ?, cost_microusd = 0, ttft_ms = ?, total_ms = ?, finish_reason = ?, error = ? WHERE id = ?",
          [
            ...[text, outcome.status, outcome.seq],
            ...[usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens],
            ...[
              outcome.ttftMs,
              outcome.totalMs,
              outcome.finishReason,
              failure && JSON.stringify(failure),
              id,
            ],
          ],
        );
        const asked = await tx.all<{ id: string; user_id: string; content: string }>(
          "SELECT id, user_id, content FROM message WHERE id = ?",
          [accepted.user_message_id],
        );
        await indexMessages(tx, [...asked, { id, user_id: userId, content: text }]);
        await tx.run(
          "INSERT INTO usage_day (day, user_id, model, requests, prompt_tokens, completion_tokens) VALUES (?, ?, ?, 1, ?, ?) ON CONFLICT (day, user_id, model) DO UPDATE SET requests = usage_day.requests + 1, prompt_tokens = usage_day.prompt_tokens + excluded.prompt_tokens, completion_tokens = usage_day.completion_tokens + excluded.completion_tokens",
          [
            ...[Math.floor(Date.now() / 86_400_000), userId, accepted.model, usage.prompt_tokens],
            usage.completion_tokens - before.completionTokens,
          ],
        );
      });
    },
  };
}

/** Marks the answers that an earlier run of the server left unfinished. @returns how many. */
export async function markInterrupted(store: Store): Promise<number> {
  const cut = await store.all<{ id: string; user_id: string; content: string; parent_id: string | null }>(
    "SELECT id, user_id, content, parent_id FROM message WHERE status = 'streaming'",
  );
  if (cut.length === 0) return 0;
  await store.transaction(async (tx) => {
    for (const { id, parent_id, ...rest } of cut) {
      await tx.run("UPDATE message SET status = 'interrupted', seq = seq + ? WHERE id = ?", [SEQ_JUMP, id]);
      const asked = await tx.all<{ id: string; user_id: string; content: string }>(
        "SELECT id, user_id, content FROM message WHERE id = ?",
        [parent_id],
      );
      await indexMessages(tx, [...asked, { id, ...rest }]);
    }
  });
  return cut.length;
}
