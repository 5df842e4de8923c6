import type { EnginePort } from "../../engine/port.ts";
import type { ModelPool } from "../../models.ts";

/** That a server has been quiet before others get the device: between two tokens of one answer there may be a moment. */
const QUIET_MS = 100;

/** Whether the models of a server are answering anybody. */
export class Busy {
  readonly #watchers = new Set<(isBusy: boolean) => void>();
  #answers = 0;
  #isBusy = false;
  #quiet: NodeJS.Timeout | undefined;

  constructor(pool: ModelPool) {
    const known = new Set<EnginePort>();
    pool.watch((model) => {
      // Adapters share the engine of their model; encoders answer in one step.
      if (model.kind !== "text" || known.has(model.frontend.engine)) return;
      known.add(model.frontend.engine);
      model.frontend.engine.observe({
        accepted: (requests) => this.#count(requests.length),
        stepped: () => {},
        token: () => {},
        ended: () => this.#count(-1),
      });
    });
  }

  /** Calls `watcher` now and whenever it changes. @returns a function that ends it */
  watch(watcher: (isBusy: boolean) => void): () => void {
    this.#watchers.add(watcher);
    watcher(this.#isBusy);
    return () => void this.#watchers.delete(watcher);
  }

  #count(change: number): void {
    this.#answers += change;
    clearTimeout(this.#quiet);
    if (this.#answers > 0) this.#tell(true);
    else this.#quiet = setTimeout(() => this.#tell(false), QUIET_MS).unref();
  }

  #tell(isBusy: boolean): void {
    if (isBusy === this.#isBusy) return;
    this.#isBusy = isBusy;
    for (const watcher of this.#watchers) watcher(isBusy);
  }
}
