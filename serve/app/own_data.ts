import type { Store } from "../store/index.ts";
import type { Application } from "./application.ts";
import type { Deleted } from "./protocol.ts";

/** What a person wrote or did; how much of which model everybody used stays, as does the account. */
const OWN = ["feedback", "preference", "event", "message", "conversation", "notice"] as const;

/** Removes all that a user wrote, the bin too, after ending what is being answered. */
export async function deleteOwnData(
  {
    store,
    conversing,
    documents,
    jobs,
    personal,
  }: Pick<Application, "store" | "conversing" | "documents" | "jobs" | "personal">,
  userId: string,
): Promise<Deleted> {
  await Promise.all(conversing.running(userId).map((generation) => generation.stop()));
  const trained = await jobs.clear(userId);
  await personal.forget(userId);
  const files = await documents.clear(userId);
  return { deleted: { ...(await store.transaction((tx) => removed(tx, userId))), ...files, ...trained } };
}

async function removed(tx: Store, userId: string): Promise<Record<string, number>> {
  const counts: Record<string, number> = {};
  await tx.run("UPDATE user_account SET settings = '{}' WHERE id = ?", [userId]);
  for (const table of OWN) counts[table] = await tx.run(`DELETE FROM ${table} WHERE user_id = ?`, [userId]);
  return counts;
}
