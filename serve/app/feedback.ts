import { newId, type Store } from "../store/index.ts";
import { AppError, notFound } from "./app_error.ts";
import { recordEvents } from "./events.ts";
import type { PreferenceBody, PreferenceResult } from "./protocol.ts";

interface Shown {
  id: string;
  model: string | null;
  status: string;
  conversation_id: string;
}

/**
 * Keeps a vote between answers to one message: the chosen one is preferred to each of the others. Who was who in a blind comparison
 * is told from now on. @throws AppError 404, 409 for an answer that is being written, 422 for what is no vote.
 */
export async function prefer(store: Store, userId: string, body: PreferenceBody): Promise<PreferenceResult> {
  const { prompt_message_id: prompt, message_ids: ids, outcome, chosen_message_id: chosen, source } = body;
  const refuse = (why: string, param: string) => new AppError(422, "invalid_vote", `${param}: ${why}`, param);
  if (new Set(ids).size !== ids.length) throw refuse("names an answer twice", "message_ids");
  if ((outcome === "chosen") !== (chosen !== undefined))
    throw refuse("goes with the outcome chosen, and with no other", "chosen_message_id");
  if (chosen !== undefined && !ids.includes(chosen))
    throw refuse("must be one of message_ids", "chosen_message_id");
  const answers = await store.all<Shown>(
    `SELECT m.id, m.model, m.status, m.conversation_id FROM message m JOIN conversation c ON c.id = m.conversation_id WHERE m.parent_id = ? AND m.role = 'assistant' AND m.user_id = ? AND c.deleted_at IS NULL AND m.id IN (${ids.map(() => "?").join(", ")})`,
    [prompt, userId, ...ids],
  );
  if (answers.length !== ids.length) throw notFound("answer to this message");
  if (answers.some(({ status }) => status === "streaming"))
    throw new AppError(409, "still_answering", "an answer is still being written: wait, or stop it");
  const models = Object.fromEntries(answers.map(({ id, model }) => [id, model ?? ""]));
  const conversationId = answers[0]!.conversation_id;
  const at = Date.now();
  await store.transaction(async (tx) => {
    // Voted again, the new vote stands.
    await tx.run("DELETE FROM preference WHERE prompt_message_id = ? AND user_id = ? AND source = ?", [
      ...[prompt, userId, source],
    ]);
    for (const rejected of chosen === undefined ? [] : ids.filter((id) => id !== chosen))
      await tx.run(
        "INSERT INTO preference (id, user_id, prompt_message_id, chosen_message_id, rejected_message_id, source, created_at) VALUES (?, ?, ?, ?, ?, ?, ?)",
        [newId(), userId, prompt, chosen!, rejected, source, at],
      );
    await tx.run("UPDATE comparison SET blind = 0 WHERE conversation_id = ?", [conversationId]);
    const shown = ids.map((id) => models[id]!);
    await recordEvents(tx, [
      {
        ...{ kind: "vote", at, userId, conversationId, messageId: chosen ?? null },
        ...{ model: chosen === undefined ? null : models[chosen]!, data: { models: shown, outcome, source } },
      },
    ]);
  });
  return { models };
}
