import { spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { packageRoot } from "../../core/platform/package_node.ts";
import { indexMessages, newId, openStore, type Store } from "../../serve/store/index.ts";

/** Between the messages of a process, which are a transaction each. */
const EVERY_MS = 5;

const words = (seed: number) =>
  Array.from({ length: 40 }, (_, i) => `word${(seed * 7 + i * 13) % 5000}`).join(" ");

/** Appends a message of 40 words to a conversation of `local`, with its place in the full-text index. */
export async function append(
  tx: Store,
  conversation: string,
  parent: string | null,
  i: number,
): Promise<string> {
  const message = { id: newId(), user_id: "local", content: words(i) };
  await tx.run(
    "INSERT INTO message (id, conversation_id, user_id, parent_id, role, content, status, created_at) VALUES (?, ?, 'local', ?, ?, ?, 'complete', ?)",
    [message.id, conversation, parent, i % 2 ? "assistant" : "user", message.content, i],
  );
  await indexMessages(tx, [message]);
  return message.id;
}

/** Appends messages at a steady pace, and prints how long each took. */
export async function write(address: string, conversation: string, count: number): Promise<void> {
  const store = await openStore(address);
  let last: string | null = null;
  for (let i = 0; i < count; i++) {
    const start = performance.now();
    last = await store.transaction((tx) => append(tx, conversation, last, i));
    const took = performance.now() - start;
    console.log(took);
    await sleep(Math.max(0, EVERY_MS - took));
  }
  await store.close();
}

/** Milliseconds of the slowest but one hundredth of the messages that processes append at the same time, `count` each. */
export async function slowestAppends(
  address: string,
  conversation: string,
  processes: number,
  count: number,
): Promise<number> {
  const script = join(packageRoot, "bench/apps/writer.mjs");
  const children = Array.from({ length: processes }, () => {
    const child = spawn(process.execPath, [script, address, conversation, String(count)]);
    let printed = "";
    child.stdout.on("data", (text) => {
      printed += text;
    });
    child.stderr.pipe(process.stderr);
    return once(child, "close").then(() => printed.trim().split("\n").map(Number));
  });
  // The first ones of each open the file and prepare the statements.
  const times = (await Promise.all(children)).flatMap((own) => own.slice(20)).sort((a, b) => a - b);
  if (times.length !== processes * (count - 20)) throw new Error("a process that writes has failed");
  return times[Math.floor(times.length * 0.99)]!;
}
