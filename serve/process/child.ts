import { type ChildProcess, fork } from "node:child_process";
import { longestTimer } from "../engine/watchdog.ts";
import type { Limits } from "../limits.ts";
import type { Order, Report } from "./messages.ts";
import { Outbox } from "./outbox.ts";

export interface ChildListener {
  take(report: Report): void;
  /** Whether it does something that may keep it from showing signs of life, such as reading weights. */
  busy(): boolean;
}

/** Milliseconds that a process gets to leave by itself, and to be gone once it is killed. */
const LEAVING = 2000;
const GONE = 1000;

/** One process of engines, as its parent sees it. */
export class EngineChild {
  readonly born = performance.now();
  /** Resolves when it has ended: how. */
  readonly ended: Promise<string>;
  readonly #process: ChildProcess;
  readonly #outbox: Outbox<Order>;
  readonly #limits: Limits;
  readonly #aliveMs: number;
  #opened = false;
  /** When it was last heard of; null: not yet. */
  #heardAt: number | null = null;
  #why: string | null = null;
  #gone!: (how: string) => void;

  /** @param script the program of the process. */
  constructor(script: string, limits: Limits, listener: ChildListener) {
    this.#limits = limits;
    this.#aliveMs = Math.min(Math.max(limits.stepMs / 4, 50), 1000);
    // Nothing of it may be taken for output of this process.
    const stdio = ["ignore", 2, 2, "ipc"] as const;
    this.#process = fork(script, [], { serialization: "advanced", stdio: [...stdio], execArgv: [] });
    this.#outbox = new Outbox((orders) => {
      // Why one cannot be sent any more, its end says.
      if (this.#process.connected) this.#process.send([...orders], () => {});
    });
    const kill = () => this.#process.kill("SIGKILL");
    process.once("exit", kill);
    const watching = this.#watch(listener);
    this.ended = new Promise<string>((resolve) => {
      this.#gone = resolve;
      this.#process.once("exit", (code, signal) => resolve(this.#why ?? signal ?? `exit status ${code}`));
      this.#process.once("error", ({ message }) => resolve(message));
    }).finally(() => {
      clearInterval(watching);
      process.off("exit", kill);
    });
    this.#process.on("message", (reports) => {
      this.#heardAt = performance.now();
      for (const report of reports as readonly Report[]) listener.take(report);
    });
  }

  get pid(): number | null {
    return this.#process.pid ?? null;
  }

  push(order: Order): void {
    if (!this.#opened) {
      this.#opened = true;
      // The environment may have changed since the process was started.
      const env = { ...process.env };
      this.#outbox.push({ do: "open", env, limits: this.#limits, aliveMs: this.#aliveMs });
    }
    this.#outbox.push(order);
  }

  /** Ends it at once. */
  kill(why: string): void {
    this.#why ??= why;
    this.#process.kill("SIGKILL");
    // One that hangs in a driver may not be gone soon: nobody waits for that.
    setTimeout(() => this.#gone(why), GONE).unref();
  }

  /** Lets it leave. */
  async close(): Promise<void> {
    if (!this.#opened) this.kill("it was not used");
    else if (this.#process.connected) this.#process.disconnect();
    const cut = setTimeout(() => this.kill("it did not leave"), LEAVING);
    await this.ended;
    clearTimeout(cut);
  }

  /** Kills it when it is not heard of for longer than a step may take. */
  #watch({ busy }: ChildListener): NodeJS.Timeout | undefined {
    const { stepMs } = this.#limits;
    if (stepMs > longestTimer) return undefined;
    let before = performance.now();
    const look = () => {
      const now = performance.now();
      // Then it is this process that was held up, and has not read what the other one said.
      const late = now - before > 2 * this.#aliveMs;
      before = now;
      if (this.#heardAt === null) return;
      if (late || busy()) this.#heardAt = now;
      else if (now - this.#heardAt > stepMs + this.#aliveMs) this.kill("it did not respond");
    };
    return setInterval(look, this.#aliveMs).unref();
  }
}
