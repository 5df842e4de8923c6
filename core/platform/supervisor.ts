/** The process that started this one to do a job, and speaks with it over a channel. */
export interface Supervisor {
  /** Tells how many steps there will be, and how many of them were done before; its log has those alone by now. */
  begin(steps: number, done: number): void;
  /** Waits for as long as the other process wants the device for itself. */
  turn(): Promise<void>;
}

/** What goes over the channel: `pause` to the worker, `steps` and `done` from it. */
export interface ToWorker {
  readonly pause: boolean;
}
export interface FromWorker {
  readonly steps: number;
  readonly done: number;
}

/**
 * The supervisor of this process; null: nobody started it over a channel. Work that nobody waits for any more would only be in
 * the way of whoever does it again: this process ends at once when the other does.
 * @param signal ends a wait
 */
export function supervisor(signal: AbortSignal): Supervisor | null {
  if (process.send === undefined) return null;
  let resume: () => void = () => {};
  let paused: Promise<void> | null = null;
  const go = () => {
    paused = null;
    resume();
  };
  process.on("message", ({ pause }: ToWorker) => {
    if (!pause) return go();
    paused ??= new Promise((resolve) => {
      resume = resolve;
    });
  });
  const die = () => process.kill(process.pid, "SIGKILL");
  process.once("disconnect", die);
  if (!process.connected) die();
  signal.addEventListener("abort", go);
  return {
    begin: (steps, done) => void process.send!({ steps, done } satisfies FromWorker),
    turn: async () => {
      // A message has its turn between two steps, whatever these wait for.
      await new Promise((resolve) => setImmediate(resolve));
      while (paused !== null && !signal.aborted) await paused;
    },
  };
}
