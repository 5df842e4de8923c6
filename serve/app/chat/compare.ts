import { randomInt } from "node:crypto";
import { newId, type Store } from "../../store/index.ts";
import { AppError } from "../app_error.ts";
import type { ChatAccepted, CompareBody, CompareResult } from "../protocol.ts";
import type { AnswerSource, Turn } from "./answers.ts";
import { buildContext } from "./context.ts";
import { acceptedOf, type Conversing } from "./conversing.ts";
import type { Asked } from "./message_rows.ts";

/** In a random order, so that the place of an answer says nothing. */
function shuffled<T>(list: readonly T[]): T[] {
  const order = [...list];
  for (let i = order.length - 1; i > 0; i--) {
    const j = randomInt(i + 1);
    [order[i], order[j]] = [order[j]!, order[i]!];
  }
  return order;
}

/**
 * Asks several models the same with the same parameters, in a conversation of its own that no history lists.
 * @throws AppError 404 for a model that does not answer here, 422 for one that is named twice.
 */
export async function compare(
  { store, source, conversing }: { store: Store; source: AnswerSource; conversing: Conversing },
  userId: string,
  { models, text, params = {}, blind = false, consent = false }: CompareBody,
): Promise<CompareResult> {
  if (new Set(models).size !== models.length)
    throw new AppError(422, "invalid_models", "models: names a model twice; name each once", "models");
  const turn: Turn = { role: "user", content: text.replaceAll("\0", "\ufffd") };
  const history = { system: null, turns: [turn], unread: { messages: 0, chars: 0 } };
  const common = { request_id: null, conversation_id: newId(), user_message_id: newId(), arm: null };
  const answers: { accepted: ChatAccepted; turns: Turn[] }[] = [];
  for (const model of shuffled(models)) {
    await source.own?.(userId, model);
    await conversing.admit(userId, model);
    const context = await buildContext(source, model, history, params.max_tokens);
    answers.push({ accepted: acceptedOf({ ...common, model }, context), turns: context.turns });
  }
  const now = Date.now();
  const all = answers.map(({ accepted }) => accepted);
  await keep(store, {
    userId,
    text: turn.content,
    params,
    blind,
    consent,
    answers: all,
    writer: conversing.writer,
    now,
  });
  const { conversation_id, user_message_id } = common;
  for (const [i, { accepted, turns }] of answers.entries()) {
    // The message is one, whoever answers it.
    const events = (await conversing.sentEvents(userId, accepted, null, now)).filter(
      ({ kind }) => i === 0 || kind === "answer_started",
    );
    conversing.begin({ userId, accepted, arm: null, events, turns, params, blind });
  }
  return {
    ...{ conversation_id, user_message_id },
    answers: all.map(({ message_id, model }) => ({ message_id, model: blind ? null : model })),
  };
}

interface Kept extends Required<Pick<CompareBody, "text" | "params" | "blind" | "consent">> {
  readonly userId: string;
  readonly answers: readonly ChatAccepted[];
  readonly writer: string;
  readonly now: number;
}

function keep(
  store: Store,
  { userId, text, params, writer, blind, consent, answers, now }: Kept,
): Promise<void> {
  const { conversation_id: id, user_message_id: asked } = answers[0]!;
  return store.transaction(async (tx) => {
    await tx.run(
      "INSERT INTO conversation (id, user_id, leaf_id, consent, created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?)",
      [id, userId, answers.at(-1)!.message_id, consent, now, now],
    );
    await tx.run("INSERT INTO comparison (conversation_id, blind, created_at) VALUES (?, ?, ?)", [
      id,
      blind,
      now,
    ]);
    await tx.run(
      "INSERT INTO message (id, conversation_id, user_id, role, content, status, created_at) VALUES (?, ?, ?, 'user', ?, 'complete', ?)",
      [asked, id, userId, text, now],
    );
    for (const { message_id, model, trimmed } of answers) {
      const how: Asked = { params, trimmed, writer };
      await tx.run(
        "INSERT INTO message (id, conversation_id, user_id, parent_id, role, content, status, model, params, created_at) VALUES (?, ?, ?, ?, 'assistant', '', 'streaming', ?, ?, ?)",
        [message_id, id, userId, asked, model, JSON.stringify(how), now],
      );
    }
  });
}
