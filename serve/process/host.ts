import { Worker } from "node:worker_threads";
import type { Limits } from "../limits.ts";
import type { ModelLoader } from "../loading.ts";
import { ModelPool } from "../models.ts";
import { writtenError } from "./errors.ts";
import { HostedReader } from "./hosted_reader.ts";
import { HostedWriter } from "./hosted_writer.ts";
import type { Loaded, Order, Report, Task } from "./messages.ts";
import { Outbox } from "./outbox.ts";

/** Where a host finds its device and models. */
export interface HostOptions {
  /** Opens the device; `onLost` is called when it is lost. */
  readonly open: (onLost: (error: Error) => void) => Promise<void>;
  readonly load: ModelLoader;
}

/**
 * The engines of one device, at the orders of a server in another process: it loads models and runs requests on them. Who
 * may join a queue is decided over there.
 */
class Host {
  readonly #loadInto: ModelLoader;
  readonly #outbox: Outbox<Report>;
  readonly #pool: ModelPool;
  readonly #models = new Map<string, HostedWriter | HostedReader>();

  constructor(limits: Limits, load: ModelLoader, outbox: Outbox<Report>) {
    this.#loadInto = load;
    this.#outbox = outbox;
    this.#pool = new ModelPool({
      limits: { ...limits, queuedRequests: Infinity, queuedTexts: Infinity, queuedTokens: Infinity },
      onError: (error) => outbox.push({ tell: "failed", error: writtenError(error) }),
    });
  }

  take(order: Exclude<Order, { do: "open" }>): void {
    if (order.do === "call") {
      const { call, task } = order;
      this.#work(task).then(
        (value) => this.#outbox.push({ tell: "done", call, value }),
        (error) => this.#outbox.push({ tell: "refused", call, error: writtenError(error) }),
      );
      return;
    }
    // A model that was unloaded has no requests any more.
    const model = this.#models.get(order.model);
    if (model instanceof HostedWriter) {
      if (order.do === "write") model.write(order.turn, order.requests);
      if (order.do === "abort") model.abort(order.id, order.finish);
    } else if (model !== undefined) {
      if (order.do === "read") model.read(order.turn, order.client, order.texts);
      if (order.do === "cancel") model.cancel(order.turn);
    }
  }

  async #work(task: Task): Promise<Loaded | null> {
    if (task.name === "load") return this.#load(task);
    if (task.name === "unload") {
      await this.#pool.remove(task.model);
      this.#models.delete(task.model);
      return null;
    }
    const model = this.#models.get(task.model);
    if (!(model instanceof HostedWriter)) throw new Error(`there is no model ${task.model} that writes`);
    if (task.name === "adapt") await model.adapt(task.adapter, task.path);
    else await model.release(task.adapter);
    return null;
  }

  async #load({ model: name, path, settings, cacheBytes }: Task & { name: "load" }): Promise<Loaded> {
    const model = await this.#loadInto(this.#pool, { name, aliases: [], path }, settings, cacheBytes);
    const { facts } = model;
    if (model.kind === "encoder") {
      const { vocabSize, maxModelLen } = model.frontend.engine.runner;
      this.#models.set(name, new HostedReader(name, model.frontend.engine, this.#outbox));
      return { kind: "encoder", facts, runner: { vocabSize, maxModelLen } };
    }
    const { vocabSize, maxModelLen, blockSize, blockCount } = model.frontend.engine.runner;
    this.#models.set(name, new HostedWriter(name, model.frontend, this.#outbox));
    return { kind: "text", facts, runner: { vocabSize, maxModelLen, blockSize, blockCount } };
  }
}

/** In a thread of its own: where this one hangs in a driver, nobody sees that the channel closed. */
const WATCH = `
const { workerData: parent } = require("node:worker_threads");
setInterval(() => process.ppid !== parent && process.kill(process.pid, "SIGKILL"), 500);
`;

/** Takes orders from the parent process until the channel to it closes. */
export function runHost(options: HostOptions): void {
  new Worker(WATCH, { eval: true, workerData: process.ppid }).unref();
  const outbox = new Outbox<Report>((reports) => void (process.connected && process.send!(reports)));
  let host: Promise<Host> | null = null;
  process.on("message", async (orders: readonly Order[]) => {
    for (const order of orders) {
      if (order.do === "open") host = open(order, options, outbox);
      else (await host)?.take(order);
    }
  });
  // The parent lets running answers finish, whoever else gets its signals.
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, () => {});
  process.on("disconnect", () => process.exit(0));
}

async function open(
  order: Extract<Order, { do: "open" }>,
  { open: openDevice, load }: HostOptions,
  outbox: Outbox<Report>,
): Promise<Host> {
  Object.assign(process.env, order.env);
  setInterval(() => outbox.push({ tell: "alive" }), order.aliveMs);
  try {
    await openDevice((error) => end(error, outbox));
  } catch (error) {
    end(error, outbox);
  }
  return new Host(order.limits, load, outbox);
}

/** Says why, and ends the process. */
function end(error: unknown, outbox: Outbox<Report>): void {
  outbox.push({ tell: "lost", error: writtenError(error) });
  outbox.flush();
  process.disconnect();
}
