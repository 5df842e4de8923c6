import { type Command, say, untilInterrupted } from "../../../core/platform/command_line.ts";

/** `kiln jobs`. Everything is imported when it is needed: `--help` is instant. */
export function addJobCommands(program: Command): void {
  const jobs = program.command("jobs").description("the work that a server's users have asked for");
  jobs
    .command("work")
    .description(
      "train what waits, one job after the other, as a server does itself; on any number of machines",
    )
    .option("--once", "end when nothing waits")
    .examples("kiln jobs work", "DATABASE_URL=postgres://… KILN_BLOBS=s3://… kiln jobs work")
    .addHelpText(
      "after",
      `
All machines share the store (DATABASE_URL), the blobs (KILN_BLOBS), the registry (KILN_REGISTRY) and the folder of the models;
where they share KILN_DATA_DIR too, one goes on from another's checkpoints.
`,
    )
    .action(work);
  jobs
    .command("list")
    .description("the newest jobs, their states and how far they are")
    .option("--json", "print them as one JSON list")
    .action(list);
}

async function work({ once = false }: { once?: boolean }): Promise<void> {
  const { openBlobs, openStore } = await import("../../store/index.ts");
  const queueing = await import("../../store/queue.ts");
  const { fineTune } = await import("./fine_tune_worker.ts");
  const store = await openStore();
  const queue = await queueing.openQueue(store);
  const { hostname } = await import("node:os");
  try {
    const blobs = await openBlobs();
    say(`working on jobs of ${store.name}; Ctrl-C ends it with its work saved`);
    await untilInterrupted("\nending with the work saved; once more to stop at once", async (signal) => {
      const worker = `${hostname()} ${process.pid}`;
      const handlers = { finetune: told(fineTune({ store, blobs, closing: signal })) };
      await queueing.work(queue, handlers, { worker, signal, once });
    });
  } finally {
    await queue.close();
    await store.close();
  }
}

/** A handler that says on the terminal what it does. */
const told =
  (handler: import("../../store/queue.ts").Handler): import("../../store/queue.ts").Handler =>
  async (job, context) => {
    say(`${job.id}: attempt ${job.attempt}`);
    const result = await handler(job, context).catch((error: Error) => {
      say(`${job.id}: ${error.message}`);
      throw error;
    });
    say(`${job.id}: ${(result as { version?: string } | null)?.version ?? "stopped"}`);
    return result;
  };

async function list({ json = false }: { json?: boolean }): Promise<void> {
  const { openStore } = await import("../../store/index.ts");
  const store = await openStore();
  try {
    const rows = await store.all<{
      id: string;
      user_id: string | null;
      kind: string;
      state: string;
      progress: number;
      error: string | null;
    }>(
      "SELECT id, user_id, kind, state, attempt, progress, error, created_at FROM job ORDER BY id DESC LIMIT 100",
    );
    if (json) return void process.stdout.write(`${JSON.stringify(rows)}\n`);
    for (const { id, user_id, kind, state, progress, error } of rows)
      process.stdout.write(
        `${id}  ${kind.padEnd(9)} ${state.padEnd(10)} ${`${Math.round(progress * 100)}%`.padStart(4)}  ${user_id ?? ""}${error ? `\n  ${error}` : ""}\n`,
      );
    if (rows.length === 0) say("there are no jobs yet: POST /api/fine-tune makes one");
  } finally {
    await store.close();
  }
}
