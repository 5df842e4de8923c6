import { indexMessages, type Store } from "../../store/index.ts";
import { qualityOf } from "../ensemble/quality.ts";
import { type AppEvent, recordEvents } from "../events.ts";
import { recordUsage } from "../usage.ts";
import type { ModelCall } from "./answers.ts";
import type { AnswerRows, Generation, Outcome } from "./generation.ts";
import { type Asked, tokensPerSecond } from "./message_rows.ts";

/**
 * How far the numbers of events jump where an answer was cut off by the end of the server: clients may have seen more events
 * than the row, and the numbers that follow must be greater.
 */
const SEQ_JUMP = 10_000;

/** Keeps answers in the table `message`, and counts them: with their end, so that no answer counts that is not kept. */
export function answerRows(store: Store, kept: (conversationId: string) => void): AnswerRows {
  return {
    async flush(id, text, seq) {
      await store.run("UPDATE message SET content = ?, seq = ? WHERE id = ?", [text, seq, id]);
    },
    async finish(generation, outcome) {
      const { messageId: id, arm } = generation;
      const { accepted, userId, before, events } = generation.options;
      const { text, usage, by } = outcome;
      const now = Date.now();
      await store.transaction(async (tx) => {
        await finishRow(tx, generation, outcome);
        const asked = await tx.all<{ id: string; user_id: string; content: string }>(
          "SELECT id, user_id, content FROM message WHERE id = ?",
          [accepted.user_message_id],
        );
        await indexMessages(tx, [...asked, { id, user_id: userId, content: text }]);
        const completion_tokens = usage.completion_tokens - before.completionTokens;
        const own: ModelCall = {
          ...by,
          model: by.model ?? accepted.model,
          usage: { ...usage, completion_tokens },
        };
        for (const { model, usage: used, costMicrousd } of by.calls ?? [own])
          await recordUsage(tx, {
            ...{
              at: now,
              userId,
              model,
              prompt_tokens: used.prompt_tokens,
              completion_tokens: used.completion_tokens,
            },
            ...{ cost_microusd: costMicrousd, estimated: used.estimated },
          });
        const end = endOf(generation, outcome, asked[0]?.content ?? "", now);
        await recordEvents(tx, [...events, ...fallbacksOf(generation, now), end]);
        if (arm !== null && outcome.ttftMs !== null)
          await tx.run(
            "INSERT INTO exposure (experiment_id, unit_id, arm, first_at) VALUES (?, ?, ?, ?) ON CONFLICT (experiment_id, unit_id) DO NOTHING",
            [arm.experimentId, arm.unit, arm.model, now],
          );
      });
      kept(accepted.conversation_id);
    },
  };
}

async function finishRow(
  tx: Store,
  { messageId, arm, options }: Generation,
  outcome: Outcome,
): Promise<void> {
  const { text, status, seq, usage, by, failure, unsupported } = outcome;
  const { params } = options.request;
  const { trimmed } = options.accepted;
  const asked: Asked = {
    ...{ params, trimmed },
    ...(usage.estimated && { estimated: true }),
    ...(unsupported.length > 0 && { unsupported: [...unsupported] }),
  };
  await tx.run(
    "UPDATE message SET content = ?, status = ?, seq = ?, params = ?, model = COALESCE(?, model), provider = ?, model_version = ?, prompt_tokens = ?, completion_tokens = ?, cached_tokens = ?, cost_microusd = ?, mean_logprob = ?, ttft_ms = ?, total_ms = ?, finish_reason = ?, error = ?, experiment_arm = ? WHERE id = ?",
    [
      ...[text, status, seq, JSON.stringify(asked), by.model ?? null, by.provider, by.modelVersion],
      ...[usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens],
      ...[outcome.costMicrousd, by.meanLogprob, outcome.ttftMs, outcome.totalMs, outcome.finishReason],
      ...[failure && JSON.stringify(failure), arm?.label ?? null, messageId],
    ],
  );
}

/** One event for each model that another answered for. */
const fallbacksOf = ({ notices, options, messageId }: Generation, at: number): AppEvent[] =>
  notices.flatMap((notice) =>
    notice.kind !== "fallback"
      ? []
      : [
          {
            ...{ kind: "fallback", at, userId: options.userId, messageId, model: notice.from },
            ...{ conversationId: options.accepted.conversation_id, data: { to: notice.to } },
          },
        ],
  );

/** The event of an answer's end. One that is gone on with has had its end before. */
function endOf(
  { options, messageId, arm }: Generation,
  outcome: Outcome,
  question: string,
  at: number,
): AppEvent {
  const { accepted, userId, before } = options;
  const { usage, ttftMs, totalMs, by, failure } = outcome;
  const kinds = {
    complete: "answer_done",
    stopped: "answer_stopped",
    error: "error",
    interrupted: "error",
  } as const;
  return {
    kind: before.seq > 0 ? "answer_continued" : kinds[outcome.status],
    ...{ at, userId, conversationId: accepted.conversation_id, messageId, model: accepted.model },
    ...{ arm: arm?.label ?? null, value: ttftMs },
    data: {
      ...{ version: by.modelVersion, provider: by.provider, total_ms: totalMs },
      speed: tokensPerSecond(usage.completion_tokens, ttftMs, totalMs),
      quality: failure === null ? qualityOf(answeredOf(question, outcome)) : null,
      ...(failure && { code: failure.code }),
      ...(outcome.invalidCitations > 0 && { invalid_citations: outcome.invalidCitations }),
    },
  };
}

const answeredOf = (question: string, { text, by, finishReason }: Outcome) => ({
  ...{ question, text, meanLogprob: by.meanLogprob, endedProperly: finishReason === "stop" },
});

interface Cut {
  id: string;
  user_id: string;
  content: string;
  conversation_id: string;
  parent_id: string | null;
  model: string | null;
  experiment_arm: string | null;
  params: string | null;
  created_at: number;
}

/** Marks the answers that no run of a server writes any more. @returns how many. */
export async function markInterrupted(store: Store, lives: readonly string[]): Promise<number> {
  const writing = await store.all<Cut>(
    "SELECT id, user_id, content, conversation_id, parent_id, model, experiment_arm, params, created_at FROM message WHERE status = 'streaming'",
  );
  const cut = writing.filter(({ params }) => {
    const { writer } = JSON.parse(params ?? "{}") as Partial<Asked>;
    return writer === undefined || !lives.includes(writer);
  });
  if (cut.length === 0) return 0;
  await store.transaction(async (tx) => {
    for (const one of cut) {
      const { id, user_id, content, parent_id } = one;
      await tx.run("UPDATE message SET status = 'interrupted', seq = seq + ? WHERE id = ?", [SEQ_JUMP, id]);
      const asked = await tx.all<Pick<Cut, "id" | "user_id" | "content" | "created_at">>(
        "SELECT id, user_id, content, created_at FROM message WHERE id = ?",
        [parent_id],
      );
      await indexMessages(tx, [...asked, { id, user_id, content }]);
      await recordEvents(tx, await missed(tx, one, asked[0]?.created_at ?? one.created_at));
    }
  });
  return cut.length;
}

/** The events that an answer would have had with its end. */
async function missed(tx: Store, cut: Cut, at: number): Promise<AppEvent[]> {
  const { id, user_id: userId, conversation_id: conversationId, parent_id, model } = cut;
  const known = await tx.all<{ message_id: string | null; kind: string }>(
    "SELECT message_id, kind FROM event WHERE user_id = ? AND at >= ? AND conversation_id = ?",
    [userId, at, conversationId],
  );
  const has = (messageId: string | null, kind?: string) =>
    known.some((event) => event.message_id === messageId && (kind === undefined || event.kind === kind));
  const common = { userId, conversationId, model };
  const sent: AppEvent = { ...common, kind: "message_sent", at, messageId: parent_id };
  const failed: AppEvent = {
    ...{ ...common, kind: "error", at: Date.now(), messageId: id, arm: cut.experiment_arm },
    data: { code: "interrupted" },
  };
  return [...(has(parent_id, "message_sent") ? [] : [sent]), ...(has(id) ? [] : [failed])];
}
