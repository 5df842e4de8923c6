import { join } from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import { KilnError } from "../../core/errors.ts";
import { packageRoot } from "../../core/platform/package_node.ts";
import { RequestError } from "../engine/errors.ts";
import type { AdapterHost } from "../engine/types.ts";
import { LIMITS, type Limits } from "../limits.ts";
import { logError } from "../log_error.ts";
import { EngineChild } from "./child.ts";
import { readError } from "./errors.ts";
import type { Loaded, Report, Task } from "./messages.ts";
import { RemoteEncoder } from "./remote_encoder.ts";
import { RemoteEngine } from "./remote_engine.ts";
import type { Post } from "./remote_port.ts";

export interface EngineProcessOptions {
  readonly limits?: Partial<Limits>;
  /** Told of each failure whose details clients do not see; default: one line on standard error. */
  readonly onError?: (error: unknown) => void;
  /** Told, a line at a time, that the process ended and that another one is ready. */
  readonly say?: (line: string) => void;
  /** The program of the process. */
  readonly script?: string;
}

/** A model in the process, and how it came to be there. */
interface Hosted {
  readonly load: Task & { readonly name: "load" };
  /** Paths of its adapters by name. */
  readonly adapters: Map<string, string>;
  readonly port: RemoteEngine | RemoteEncoder;
}

/** Starts in a row that may fail. */
const MOST_STARTS = 3;
/** Milliseconds before another start; they double up to `restartPauseMs` while processes end young. */
const FIRST_PAUSE = 125;
/** Milliseconds after which a process is not young any more. */
const GROWN = 10_000;

const STOPPED = "the process of the engines ended";

/**
 * The process of a device's engines, apart from the one that answers clients: what keeps the one busy does not hold up the
 * other, and where it hangs or loses its device it can be killed. When it ends, for whatever reason, its requests end with an
 * error, and another one is started which loads the same models; until then these are `starting`.
 */
export class EngineProcess {
  readonly limits: Limits;
  readonly #options: EngineProcessOptions;
  readonly #models = new Map<string, Hosted>();
  readonly #calls = new Map<
    number,
    { resolve: (value: Loaded | null) => void; reject: (e: Error) => void }
  >();
  readonly #post: Post;
  #child: EngineChild | null = null;
  /** The start of a process in place of one that ended. */
  #revival: Promise<void> | null = null;
  #closed = false;
  #giveUp!: (error: KilnError) => void;
  #lastCall = 0;
  /** Processes in a row that ended young. */
  #young = 0;

  /** Resolves when no process can be started any more: why. The models then stay `starting`. */
  readonly gaveUp = new Promise<KilnError>((resolve) => {
    this.#giveUp = resolve;
  });

  constructor(options: EngineProcessOptions = {}) {
    this.#options = options;
    this.limits = { ...LIMITS, ...options.limits };
    const isReady = () => this.#child !== null && this.#revival === null;
    this.#post = {
      get ready() {
        return isReady();
      },
      push: (order) => this.#child?.push(order),
    };
  }

  /** Of the process that runs now, or null. */
  get pid(): number | null {
    return this.#child?.pid ?? null;
  }

  /** Starts the process, so that it is there when the first model is to be loaded. */
  start(): void {
    if (this.#closed) throw new KilnError(STOPPED, { code: "engine_unavailable" });
    this.#child ??= this.#spawn();
  }

  /**
   * Loads a model, under a name that no other has.
   * @throws KilnError as `loadInto`, and where the process ends meanwhile.
   */
  async load(load: Omit<Hosted["load"], "name">): Promise<{ loaded: Loaded; port: Hosted["port"] }> {
    const { model } = load;
    const task = { name: "load" as const, ...load };
    await this.#revival;
    this.start();
    const loaded = (await this.#call(task)) as Loaded;
    const options = { model, post: this.#post, limits: this.limits };
    const port =
      loaded.kind === "encoder"
        ? new RemoteEncoder(options, loaded.runner)
        : new RemoteEngine(options, loaded.runner, this.#adaptersOf(model));
    this.#models.set(model, { load: task, adapters: new Map(), port });
    return { loaded, port };
  }

  /** Gives the memory of a model back, on which nothing runs. */
  async unload(model: string): Promise<void> {
    this.#models.delete(model);
    await this.#revival;
    // If the process ends instead, the memory is back too.
    await this.#call({ name: "unload", model }).catch(() => {});
  }

  /** Ends the process and starts no other. */
  async close(): Promise<void> {
    this.#closed = true;
    const child = this.#child;
    this.#child = null;
    this.#lose("the server is shutting down");
    await child?.close();
    await this.#revival;
  }

  #adaptersOf(model: string): AdapterHost {
    return {
      add: async (adapter, path) => {
        await this.#revival;
        await this.#call({ name: "adapt", model, adapter, path });
        this.#models.get(model)?.adapters.set(adapter, path);
      },
      remove: async (adapter) => {
        this.#models.get(model)?.adapters.delete(adapter);
        await this.#revival;
        await this.#call({ name: "release", model, adapter }).catch(() => {});
      },
    };
  }

  #call(task: Task): Promise<Loaded | null> {
    const child = this.#child;
    if (child === null) return Promise.reject(new KilnError(STOPPED, { code: "engine_unavailable" }));
    const call = ++this.#lastCall;
    return new Promise((resolve, reject) => {
      this.#calls.set(call, { resolve, reject });
      child.push({ do: "call", call, task });
    });
  }

  #spawn(): EngineChild {
    const script = this.#options.script ?? join(packageRoot, "bin/engine.mjs");
    const child: EngineChild = new EngineChild(script, this.limits, {
      // What it said before it was killed may come later.
      take: (report) => this.#child === child && this.#take(report),
      busy: () => this.#calls.size > 0,
    });
    void child.ended.then((how) => this.#child === child && this.#ended(child, how));
    return child;
  }

  #take(report: Report): void {
    if (report.tell === "written" || report.tell === "readings") {
      const port = this.#models.get(report.model)?.port;
      if (report.tell === "written" && port instanceof RemoteEngine) port.take(report);
      if (report.tell === "readings" && port instanceof RemoteEncoder) port.take(report);
      // The requests have ended over there, but the step goes on, and with it the device is taken.
      if (report.stats.state === "hung") this.#child!.kill("a step took too long");
    } else if (report.tell === "done") this.#callOf(report.call)?.resolve(report.value);
    else if (report.tell === "refused") this.#callOf(report.call)?.reject(readError(report.error));
    else if (report.tell === "failed") (this.#options.onError ?? logError)(readError(report.error));
    else if (report.tell === "lost") this.#child!.kill(report.error.message);
  }

  #callOf(call: number) {
    const known = this.#calls.get(call);
    this.#calls.delete(call);
    return known;
  }

  #ended(child: EngineChild, how: string): void {
    this.#child = null;
    const isYoung = performance.now() - child.born < GROWN;
    this.#young = isYoung ? this.#young + 1 : 0;
    this.#lose(how);
    if (this.#closed || this.#revival !== null || this.#models.size === 0) return;
    this.#options.say?.(`${STOPPED} (${how}); starting another`);
    this.#revival = this.#revive().finally(() => {
      this.#revival = null;
    });
  }

  /** Starts a process with all models. */
  async #revive(): Promise<void> {
    for (let starts = 1; ; starts++) {
      const wait = this.#young < 2 ? 0 : FIRST_PAUSE * 2 ** (this.#young - 2);
      await pause(Math.min(wait, this.limits.restartPauseMs));
      if (this.#closed) return;
      const begin = performance.now();
      this.#child = this.#spawn();
      try {
        await this.#reload();
        const seconds = ((performance.now() - begin) / 1000).toFixed(1);
        this.#options.say?.(`another process of the engines is ready after ${seconds} s`);
        return;
      } catch (error) {
        const child = this.#child;
        if (this.#closed) return;
        child?.kill("it could not load the models");
        await child?.ended;
        if (starts < MOST_STARTS) continue;
        this.#closed = true;
        const { message } = error as Error;
        const line = `the engines cannot be started again, ${MOST_STARTS} processes failed: ${message}`;
        this.#giveUp(new KilnError(line, { code: "engine_unavailable", cause: error }));
        return;
      }
    }
  }

  async #reload(): Promise<void> {
    for (const { load, adapters, port } of [...this.#models.values()]) {
      const loaded = (await this.#call(load)) as Loaded;
      if (loaded.kind === "text" && port instanceof RemoteEngine) port.restore(loaded.runner);
      for (const [adapter, path] of adapters)
        await this.#call({ name: "adapt", model: load.model, adapter, path });
    }
  }

  /** Ends all that waits for the process. */
  #lose(how: string): void {
    const error = new KilnError(`${STOPPED}: ${how}`, { code: "engine_unavailable" });
    for (const { reject } of this.#calls.values()) reject(error);
    this.#calls.clear();
    const stopped = new RequestError("engine_unavailable", "the model stopped; try again soon");
    for (const { port } of this.#models.values()) port.lose(stopped);
  }
}
