import { appendFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { openStore } from "../../serve/store/index.ts";
import { openQueue, work } from "../../serve/store/queue.ts";

// A process that runs jobs until it is told to stop, and appends a line to a file when it begins one and when it has done it.
// Arguments: address, name, file, lease in milliseconds.
const [address, worker, file, leaseMs] = process.argv.slice(2) as [string, string, string, string];
const controller = new AbortController();
process.on("SIGTERM", () => controller.abort());
const store = await openStore(address);
const queue = await openQueue(store, { leaseMs: Number(leaseMs) });
process.stdout.write("open\n");
await work(
  queue,
  {
    count: async ({ id, attempt }) => {
      appendFileSync(file, `begin ${id} ${attempt} ${worker}\n`);
      await sleep(Math.random() * 8);
      appendFileSync(file, `end ${id} ${attempt} ${worker}\n`);
    },
  },
  { worker, signal: controller.signal, pollMs: 100 },
);
await queue.close();
await store.close();
