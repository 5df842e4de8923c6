import { setTimeout as sleep } from "node:timers/promises";
import { expect } from "vitest";
import { checkStore } from "../../serve/store/check.ts";
import { openStore } from "../../serve/store/index.ts";
import { Writer } from "./store_processes.ts";
import { addConversation, addUser } from "./store_rows.ts";

/** Kills writers at a moment of their work, `rounds` times, and looks whether all that they were told to be kept is kept. */
export async function killWriters(address: string, rounds: number): Promise<number> {
  let store = await openStore(address);
  const user = await addUser(store);
  const conversation = await addConversation(store, user);
  await store.close();
  const kept = new Set<string>();
  for (let round = 0; round < rounds; round++) {
    const writers = ["a", "b"].map(
      (name) => new Writer([address, user, conversation, `${name}${round}`, 1e6]),
    );
    await Promise.all(writers.map(({ opened }) => opened));
    await sleep(50 + Math.random() * 200);
    for (const writer of writers) await writer.kill();
    for (const writer of writers) for (const id of writer.kept) kept.add(id);
    store = await openStore(address);
    const rows = await store.all<{ id: string }>("SELECT id FROM message");
    const there = new Set(rows.map(({ id }) => id));
    expect([...kept].filter((id) => !there.has(id))).toEqual([]);
    // Each may have been killed between its commit and its line, but has written nothing that it did not try.
    expect(there.size - kept.size).toBeLessThanOrEqual(2 * (round + 1));
    expect((await checkStore(store)).problems).toEqual([]);
    await store.close();
  }
  return kept.size;
}
