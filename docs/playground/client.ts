import type { CallName, Calls, Events, Told } from "./protocol.ts";

/** The worker's file, put in by the build. */
declare const WORKER: string;

type Listeners = { [N in keyof Events]: (data: Events[N]) => void };

/** The page's side of the worker. */
export class Client {
  readonly #listeners: Listeners;
  readonly #waiting = new Map<number, { resolve(value: never): void; reject(error: Error): void }>();
  #worker: Worker;
  #calls = 0;

  constructor(listeners: Listeners) {
    this.#listeners = listeners;
    this.#worker = this.#begin();
  }

  call<N extends CallName>(name: N, ...args: Parameters<Calls[N]>): Promise<ReturnType<Calls[N]>> {
    const id = this.#calls++;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      this.#worker.postMessage({ id, name, args });
    });
  }

  /** A new worker with a device of its own: nothing of the old one stays in memory, and its open calls are never answered. */
  restart(): void {
    this.#worker.terminate();
    this.#waiting.clear();
    this.#worker = this.#begin();
  }

  #begin(): Worker {
    const worker = new Worker(new URL(WORKER, import.meta.url), { type: "module" });
    worker.onmessage = ({ data }: MessageEvent<Told>) => this.#hear(data);
    worker.onerror = ({ message }) => {
      const error = new Error(
        `the page's worker failed (${message ?? "it could not be loaded"}): reload the page.`,
      );
      for (const { reject } of this.#waiting.values()) reject(error);
      this.#waiting.clear();
    };
    return worker;
  }

  #hear(told: Told): void {
    if ("event" in told) {
      this.#listeners[told.event](told.data as never);
      return;
    }
    const waiting = this.#waiting.get(told.id);
    this.#waiting.delete(told.id);
    if ("error" in told) waiting?.reject(new Error(told.error));
    else waiting?.resolve(told.value as never);
  }
}
