import { setTimeout as sleep } from "node:timers/promises";
import { firstLine } from "../core/platform/files.ts";
import { InTurn } from "../core/platform/in_turn.ts";
import { type RegisteredVersion, Registry } from "../models/registry/registry.ts";
import type { ModelSource } from "./loading.ts";

/** A model of the registry to serve. */
export interface RegisteredSource extends ModelSource {
  /** The version, as `name@3`: the model's own name in the server where an alias is followed. */
  readonly version: string;
  /** The alias to follow, as `name@prod`; null of a version that was given by its number. */
  readonly follows: string | null;
}

/** What loads and unloads models of a running server: see `Administration`. */
export interface Switcher {
  replace(old: string, source: ModelSource): Promise<unknown>;
  unload(name: string): Promise<unknown>;
}

interface Served {
  source: RegisteredSource;
  task: string;
  /** Lets the version be deleted. */
  end: () => Promise<void>;
  /** The version that could not take the place, or "". */
  refused: string;
}

export interface FollowerOptions {
  switcher: Switcher;
  say: (line: string) => void;
  registry?: Registry;
  /** Milliseconds between two looks at the aliases (default 500). */
  everyMs?: number;
}

/**
 * Keeps a server on what the registry's aliases stand for. Where one was moved, the new version is loaded beside the old, then
 * takes its names at once: a request has the version that it found when it came, and the old one goes when its last request has
 * ended. A version that cannot take the place leaves the old one in it. Versions that are served cannot be deleted meanwhile.
 */
export class RegistryFollower {
  readonly #options: Required<FollowerOptions>;
  readonly #served: Served[] = [];
  readonly #stop = new AbortController();
  /** Versions that answer for experiments, with what lets them be deleted. */
  readonly #arms = new Map<string, () => Promise<void>>();
  /** Loads, one after the other. */
  readonly #working = new InTurn();

  constructor({ registry = new Registry(), everyMs = 500, ...options }: FollowerOptions) {
    this.#options = { ...options, registry, everyMs };
  }

  /** Takes care of a version that the server has loaded. @throws KilnError where it was deleted meanwhile. */
  async add(source: RegisteredSource): Promise<void> {
    const { signature } = await this.#options.registry.find(source.version);
    this.#served.push({ source, task: signature.task, end: await this.#use(source.version), refused: "" });
  }

  #use(version: string): Promise<() => Promise<void>> {
    return this.#options.registry.use(version, `kiln serve (process ${process.pid})`);
  }

  /** Looks at the aliases now and then, until `close`. */
  async run(): Promise<void> {
    if (this.#served.every(({ source }) => source.follows === null)) return;
    const { signal } = this.#stop;
    while (!signal.aborted) {
      await sleep(this.#options.everyMs, undefined, { signal, ref: false }).catch(() => {});
      if (!signal.aborted) await this.check();
    }
  }

  /** Ends what `run` does, and lets the versions be deleted. */
  async close(): Promise<void> {
    this.#stop.abort();
    await Promise.all([
      ...this.#served.map(({ end }) => end()),
      ...[...this.#arms.values()].map((end) => end()),
    ]);
  }

  /** Looks at the aliases once, and has loaded and unloaded what they ask for when it returns. */
  check(): Promise<void> {
    return this.#working.do(() => this.#follow());
  }

  /**
   * Has these versions answer beside those that are served, for experiments, and lets go of those that answered for others. One
   * that an alias stands for by now has become what is served. @throws KilnError where one cannot be loaded.
   */
  keepArms(versions: readonly string[]): Promise<void> {
    return this.#working.do(async () => {
      const isServed = (version: string) => this.#served.some(({ source }) => source.version === version);
      const missing = versions.filter((version) => !this.#arms.has(version) && !isServed(version));
      const spare = [...this.#arms.keys()].filter((version) => !versions.includes(version));
      if (spare.length > 0) await this.#follow();
      for (const version of spare) await this.#letGo(version);
      for (const version of missing) await this.#addArm(version);
    });
  }

  async #addArm(version: string): Promise<void> {
    const { switcher, say, registry } = this.#options;
    const end = await this.#use(version);
    try {
      const { path } = await registry.find(version);
      await switcher.replace("", { name: version, aliases: [], path });
    } catch (error) {
      await end();
      say(`${version} cannot answer for its experiment: ${firstLine(error)}`);
      throw error;
    }
    this.#arms.set(version, end);
    say(`${version} answers for its experiment`);
  }

  async #letGo(version: string): Promise<void> {
    const end = this.#arms.get(version);
    if (end === undefined) return; // it is served now
    this.#arms.delete(version);
    await this.#options.switcher.unload(version);
    await end();
  }

  async #follow(): Promise<void> {
    for (const served of this.#served) {
      const { follows, version } = served.source;
      // An alias that was taken away, or a registry that cannot be read now, moves nothing.
      const found = follows === null ? null : await this.#options.registry.find(follows).catch(() => null);
      const wanted = found && `${found.name}@${found.version}`;
      if (!found || wanted === version || wanted === served.refused) continue;
      try {
        await this.#switch(served, found);
        served.refused = "";
      } catch (error) {
        served.refused = wanted!;
        this.#options.say(
          `${follows} stays on ${version}: ${wanted} cannot take its place: ${firstLine(error)}`,
        );
      }
    }
  }

  async #switch(served: Served, { name, version, path, signature }: RegisteredVersion): Promise<void> {
    const { switcher, say } = this.#options;
    const { source: old, end } = served;
    if (signature.task !== served.task)
      throw new Error(`it is for ${signature.task}, and who asks expects ${served.task}`);
    const next = `${name}@${version}`;
    const ended = this.#arms.get(next) ?? (await this.#use(next));
    try {
      await switcher.replace(old.version, { name: next, aliases: [], path });
    } catch (error) {
      if (!this.#arms.has(next)) await ended();
      throw error;
    }
    this.#arms.delete(next);
    served.source = { ...old, version: next, name: next, path };
    served.end = ended;
    say(`${old.follows} is ${next} now; ${old.version} ends its last answers`);
    // Two versions have room beside each other, three may not: the next switch waits for this one.
    await switcher.unload(old.version);
    await end();
  }
}
