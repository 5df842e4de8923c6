import { resolve } from "node:path";
import { definedOnly } from "../core/defined_only.ts";
import { KilnError } from "../core/errors.ts";
import type { Tokenizer } from "../tokenizer/index.ts";
import { DeviceShare } from "./engine/device_share.ts";
import { EncoderEngine } from "./engine/encoder_engine.ts";
import type { EncoderRunner } from "./engine/encoder_runner.ts";
import { Engine } from "./engine/engine.ts";
import { shuttingDown } from "./engine/errors.ts";
import type { EncoderPort, EnginePort } from "./engine/port.ts";
import type { Runner } from "./engine/types.ts";
import { within } from "./engine/watchdog.ts";
import { LIMITS, type Limits } from "./limits.ts";
import { logError } from "./log_error.ts";
import { EncoderFrontend, type EncoderTask } from "./text/encoder_frontend.ts";
import { Frontend } from "./text/frontend.ts";

/** What a model is made of. */
export interface ModelFacts {
  /** The `model_type` of its config.json. */
  readonly family: string;
  readonly format: "safetensors" | "gguf";
  readonly parameters: number;
  /** Of the weights on the device. */
  readonly bytes: number;
  readonly dtype: string;
}

interface Served {
  /** Its own name: aliases stand for it. */
  readonly name: string;
  /** Unix time in seconds. */
  readonly created: number;
  /** Tokens of the longest text, or prompt plus answer. */
  readonly maxModelLen: number;
  /** Name of the model that this is an adapter of, or null. */
  readonly parent: string | null;
  /** Of an adapter, where it was loaded from. */
  readonly root?: string;
  /** Of a model, where it was loaded from, as an absolute path; null where it was made by hand. */
  readonly path: string | null;
  /** What else is known of it; null where it was made by hand. */
  readonly facts: ModelFacts | null;
  /** Lets what runs on it finish for `timeoutMs`, then ends the rest with an error. */
  drain(timeoutMs: number): Promise<void>;
  /** Gives its memory back; nothing may run on it. */
  close(): Promise<void>;
}

/** A model that writes text. */
export interface TextModel extends Served {
  readonly kind: "text";
  readonly frontend: Frontend;
}

/** A model that reads texts. */
export interface EncoderModel extends Served {
  readonly kind: "encoder";
  readonly frontend: EncoderFrontend;
}

export type ServedModel = TextModel | EncoderModel;

/** What a model is for. */
export type ModelTask = "generate" | EncoderTask["name"];

export const taskOf = (model: ServedModel): ModelTask =>
  model.kind === "text" ? "generate" : model.frontend.task.name;

/** The models of a server by the names that clients give as `model`: their own names and aliases. */
export interface Models extends Iterable<[name: string, model: ServedModel]> {
  get(name: string): ServedModel | undefined;
  /** Whether no more requests should be sent here. */
  readonly closing: boolean;
}

interface ModelOptions {
  /** The name that clients give as `model`. */
  readonly name: string;
  readonly aliases?: readonly string[];
  readonly facts?: ModelFacts | null;
  /** Where it was loaded from. */
  readonly path?: string | undefined;
  /** Frees what the runner holds, when the model is unloaded. */
  readonly close?: () => Promise<void>;
}

/** A model that writes text, with an engine of its own. */
export interface WriterOptions extends ModelOptions {
  readonly engine: EnginePort;
  readonly tokenizer: Tokenizer;
}

export interface TextModelOptions extends Omit<WriterOptions, "engine"> {
  readonly runner: Runner;
  /** Sequences that run at once (default 64). */
  readonly maxSeqs?: number;
  /** Tokens computed in one step (default 512). */
  readonly maxBatchedTokens?: number;
}

/** An adapter of a model of the pool, ready on its runner. */
export interface AdapterOptions extends Omit<ModelOptions, "aliases"> {
  readonly parent: TextModel;
  /** What the runner calls it. */
  readonly adapter: string;
  /** Where it was loaded from. */
  readonly root: string;
  readonly tokenizer: Tokenizer;
}

/** A model that reads texts, with an engine of its own. */
export interface ReaderOptions extends ModelOptions {
  readonly engine: EncoderPort;
  readonly tokenizer: Tokenizer;
  readonly task: EncoderTask;
}

export interface EncoderModelOptions extends Omit<ReaderOptions, "engine"> {
  readonly runner: EncoderRunner;
}

export interface PoolOptions {
  readonly limits?: Partial<Limits>;
  /** Told of each failure whose details clients do not see. Default: one line on standard error. */
  readonly onError?: (error: unknown) => void;
}

/** A model and the requests that hold it. */
interface Entry {
  readonly model: ServedModel;
  /** Requests that got it by one of its names and have not ended. */
  holders: number;
  /** Called when the last of them ends. */
  free: (() => void) | null;
}

/** Longer than any request runs: the most that a timer waits. */
const FOREVER = 2 ** 31 - 1;

/**
 * The models that a server has, which may come and go while it runs. They share one device: see `DeviceShare`. A request
 * keeps the model that it found by a name, also when the name stands for another one since.
 */
export class ModelPool implements Models {
  readonly limits: Limits;
  readonly onError: (error: unknown) => void;
  readonly #share = new DeviceShare();
  /** By name and alias. */
  readonly #names = new Map<string, Entry>();
  readonly #watchers: ((model: ServedModel) => void)[] = [];
  /** Called after each change of the names; before any is set, for nobody. */
  onChange: () => void = () => {};
  #closing = false;
  /** Whether only the requests that have found their model are answered any more. */
  #refuses = false;
  /** Requests that have found a model and have not ended. */
  readonly #holding = new Set<object>();
  #released: (() => void) | null = null;

  constructor({ limits, onError = logError }: PoolOptions = {}) {
    this.limits = { ...LIMITS, ...limits };
    this.onError = onError;
  }

  [Symbol.iterator](): Iterator<[string, ServedModel]> {
    return [...this.#names].map(([name, { model }]): [string, ServedModel] => [name, model]).values();
  }

  get(name: string): ServedModel | undefined {
    return this.#names.get(name)?.model;
  }

  /** Adds a model that writes text. @throws KilnError for a name that is taken. */
  addText({ runner, maxSeqs, maxBatchedTokens, ...options }: TextModelOptions): TextModel {
    const { limits, onError } = this;
    const sizes = definedOnly({ maxSeqs, maxBatchedTokens });
    const engine = new Engine({ runner, ...sizes, limits, onError, share: this.#share });
    return this.addWriter({ ...options, engine });
  }

  /** Adds a model that writes text on its own engine. @throws KilnError for a name that is taken. */
  addWriter({ engine, aliases, tokenizer, ...options }: WriterOptions): TextModel {
    const frontend = new Frontend(engine, tokenizer, this.limits);
    return this.#add(aliases, { kind: "text", frontend, ...served(options, engine) });
  }

  /**
   * Adds an adapter, by whose name clients ask for its model with it.
   * @throws KilnError for a name that is taken, and where the model is not here any more.
   */
  addAdapter({ name, parent, adapter, root, tokenizer, close }: AdapterOptions): TextModel {
    this.find(parent.name);
    const { engine } = parent.frontend;
    const frontend = new Frontend(engine, tokenizer, this.limits, adapter);
    // What runs on it has ended when nobody holds it: the engine is its parent's.
    const drain = async () => {};
    const own = { ...served({ name, close, facts: parent.facts }, engine), parent: parent.name, root, drain };
    return this.#add([], { kind: "text", frontend, ...own });
  }

  /** Adds a model that reads texts. @throws KilnError for a name that is taken. */
  addEncoder({ runner, ...options }: EncoderModelOptions): EncoderModel {
    const { limits, onError } = this;
    return this.addReader({
      ...options,
      engine: new EncoderEngine({ runner, limits, onError, share: this.#share }),
    });
  }

  /** Adds a model that reads texts on its own engine. @throws KilnError for a name that is taken. */
  addReader({ engine, aliases, tokenizer, task, ...options }: ReaderOptions): EncoderModel {
    const frontend = new EncoderFrontend(engine, tokenizer, task, this.limits);
    return this.#add(aliases, { kind: "encoder", frontend, ...served(options, engine) });
  }

  /** Adds what reads texts by several models, of which `parent` is one: it goes with it. @throws KilnError as `addReader`. */
  addCombined(name: string, parent: string, frontend: EncoderFrontend): EncoderModel {
    const common = { ...served({ name }, frontend.engine), parent, drain: async () => {} };
    return this.#add([], { kind: "encoder", frontend, ...common });
  }

  /** @throws KilnError for a name that is taken, or that comes twice. */
  assertFree(names: readonly string[]): void {
    const taken = names.find((name, i) => this.#names.has(name) || names.indexOf(name) !== i);
    if (taken === undefined) return;
    throw new KilnError(`there is a model \`${taken}\` already: choose another name`, { code: "name_taken" });
  }

  #add<M extends ServedModel>(aliases: readonly string[] = [], model: M): M {
    const names = [model.name, ...aliases];
    this.assertFree(names);
    const entry: Entry = { model, holders: 0, free: null };
    for (const name of names) this.#names.set(name, entry);
    for (const watcher of this.#watchers) watcher(model);
    this.onChange();
    return model;
  }

  /**
   * Lets a name stand for a model, from the next request on; null: for none. Requests that found another by it keep that.
   * @throws KilnError for a model that does not exist, and a name that is a model's own.
   */
  alias(alias: string, name: string | null): void {
    if (this.get(alias)?.name === alias) {
      throw new KilnError(`\`${alias}\` is a model's own name: choose another alias`, { code: "name_taken" });
    }
    if (name === null) this.#names.delete(alias);
    else this.#names.set(alias, this.#entry(name));
    this.onChange();
  }

  /** Takes a model out of the pool with all its names and adapters, lets what runs on it finish and frees its memory. */
  async remove(name: string): Promise<void> {
    const entry = this.#entry(name);
    const adapters = [...this].flatMap(([known, { name: own, parent }]) =>
      parent === entry.model.name && known === own ? [this.remove(own)] : [],
    );
    for (const [known, { model }] of this.#names) if (model === entry.model) this.#names.delete(known);
    this.onChange();
    await Promise.all(adapters);
    if (entry.holders > 0) {
      await new Promise<void>((resolve) => {
        entry.free = resolve;
      });
    }
    await entry.model.drain(FOREVER);
    await entry.model.close();
  }

  /** `get` for a model that must exist. @throws KilnError. */
  find(name: string): ServedModel {
    return this.#entry(name).model;
  }

  #entry(name: string): Entry {
    const entry = this.#names.get(name);
    if (entry !== undefined) return entry;
    throw new KilnError(`there is no model \`${name}\`: see /v1/models`, { code: "model_not_found" });
  }

  /** Calls `watcher` with each model that is there, and with each that is added. */
  watch(watcher: (model: ServedModel) => void): void {
    this.#watchers.push(watcher);
    for (const model of new Set([...this].map(([, served]) => served))) watcher(model);
  }

  /** Models that one request uses: what it gets here stays until `release`. */
  hold(): Models & { release(): void } {
    const held = new Set<Entry>();
    return {
      get: (name) => {
        const entry = this.#names.get(name);
        if (entry === undefined) return undefined;
        if (this.#refuses && held.size === 0) throw shuttingDown();
        if (!held.has(entry)) entry.holders++;
        held.add(entry);
        this.#holding.add(held);
        return entry.model;
      },
      closing: this.#closing,
      [Symbol.iterator]: () => this[Symbol.iterator](),
      release: () => {
        this.#holding.delete(held);
        if (this.#holding.size === 0) this.#released?.();
        for (const entry of held) {
          entry.holders -= 1;
          if (entry.holders === 0) entry.free?.();
        }
        held.clear();
      },
    };
  }

  get closing(): boolean {
    return this.#closing;
  }

  /** Tells probes that the server ends. What clients had sent before they knew is still taken, until `drain`. */
  async leave(): Promise<void> {
    this.#closing = true;
    // As long as it takes a busy process to accept and read what waits in the system.
    await new Promise((resolve) => setTimeout(resolve, 100));
  }

  /**
   * Lets the requests that have found their model finish for `timeoutMs`, also those that are still being read into tokens, and
   * what else runs; then ends the rest with an error.
   */
  async drain(timeoutMs: number): Promise<void> {
    this.#closing = true;
    this.#refuses = true;
    const end = performance.now() + timeoutMs;
    if (this.#holding.size > 0) {
      const released = new Promise<void>((resolve) => {
        this.#released = resolve;
      });
      await within(released, timeoutMs);
    }
    const models = new Set([...this].map(([, model]) => model));
    await Promise.all([...models].map((model) => model.drain(Math.max(0, end - performance.now()))));
  }
}

function served({ name, facts = null, path, close }: ModelOptions, engine: EnginePort | EncoderPort): Served {
  return {
    name,
    facts,
    path: path === undefined ? null : resolve(path), // whoever fine-tunes it does so in another folder
    parent: null,
    created: Math.floor(Date.now() / 1000),
    maxModelLen: engine.runner.maxModelLen,
    drain: (timeoutMs) => engine.drain(timeoutMs),
    close: async () => close?.(),
  };
}
