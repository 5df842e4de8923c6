import type { Store } from "../../store/index.ts";
import { type Grounding, ground, type Retrieve } from "../documents/grounding.ts";
import type { Searches } from "../documents/search.ts";
import type { Params } from "../protocol.ts";
import type { AnswerSource } from "./answers.ts";
import { buildContext, type Context, type History } from "./context.ts";
import type { Branch } from "./history.ts";

interface Asking {
  readonly userId: string;
  readonly branch: History & Pick<Branch, "documents" | "notice">;
  readonly model: string;
  readonly params: Params;
  readonly retrieve: Retrieve;
}

/** What a model is sent of a branch, and what of the user's documents that is made from. */
export async function groundedContext(
  searches: Searches,
  source: AnswerSource,
  { userId, branch, model, params, retrieve }: Asking,
): Promise<{ context: Context; grounding: Grounding | null }> {
  const { turns, system, documents, notice } = branch;
  // Behind the question stands an answer that is gone on with, or nothing.
  const end = turns.findLastIndex(({ role }) => role === "user") + 1;
  const grounding = await ground(searches, source, {
    ...{ userId, turns: turns.slice(0, end), system, model, retrieve, documents, notice },
  });
  const own = grounding === null ? turns : [...turns.slice(0, end - 1), grounding.turn, ...turns.slice(end)];
  const context = await buildContext(source, model, { ...branch, turns: own }, params.max_tokens);
  return { context, grounding };
}

/** Keeps what an answer is made from, instead of what was kept before. */
export async function keepSources(tx: Store, messageId: string, grounding: Grounding): Promise<void> {
  await tx.run("DELETE FROM citation WHERE message_id = ?", [messageId]);
  for (const { n, passage } of grounding.sources)
    await tx.run("INSERT INTO citation (message_id, n, chunk_id, document_id) VALUES (?, ?, ?, ?)", [
      ...[messageId, n],
      ...[passage.id, passage.document_id],
    ]);
}
