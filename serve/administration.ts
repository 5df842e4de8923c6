import { realpath } from "node:fs/promises";
import { resolve, sep } from "node:path";
import { KilnError } from "../core/errors.ts";
import { say } from "../core/platform/command_line.ts";
import { InTurn } from "../core/platform/in_turn.ts";
import { modelAt } from "../models/hub/resolve.ts";
import {
  type CacheBudget,
  cacheNeed,
  type LoadSettings,
  loadInto,
  type ModelLoader,
  type ModelSource,
} from "./loading.ts";
import { loadAdapterInto } from "./lora.ts";
import type { ModelPool, ServedModel } from "./models.ts";

export interface AdministrationOptions {
  readonly models: ModelPool;
  readonly settings: LoadSettings;
  readonly budget: CacheBudget;
  /** Folders whose models may be loaded. */
  readonly folders: readonly string[];
  /** Default: `loadInto`. */
  readonly load?: ModelLoader;
}

/** Loads and unloads models and adapters of a running server, and moves aliases. */
export class Administration {
  readonly #options: AdministrationOptions;
  /** Loads, one after the other: each knows what the one before left. */
  readonly #loads = new InTurn();

  constructor(options: AdministrationOptions) {
    this.#options = options;
  }

  /**
   * Adds the model of a folder or GGUF file below one of the folders, ready to answer.
   * @throws KilnError for a path outside of them, a name that is taken, and as `loadInto`.
   */
  load(name: string, path: string, aliases: readonly string[]): Promise<ServedModel> {
    return this.#loads.do(() => this.#load(name, path, aliases));
  }

  /**
   * Adds the adapter of a folder or GGUF file below one of the folders to the model `base`, or to the only one.
   * @throws KilnError for a path outside of them, and as `loadAdapterInto`.
   */
  loadAdapter(name: string, given: string, base: string | undefined): Promise<ServedModel> {
    return this.#loads.do(async () => {
      const { models } = this.#options;
      models.assertFree([name]);
      const path = await this.#confined(given);
      const adapter = await loadAdapterInto(models, { name, path, base });
      say(`loaded the adapter ${name} from ${path}`);
      return adapter;
    });
  }

  /** Takes an adapter out as `unload` does a model. @throws KilnError for one that does not exist. */
  async unloadAdapter(name: string): Promise<void> {
    if ((this.#options.models.get(name)?.parent ?? null) === null)
      throw new KilnError(`there is no adapter \`${name}\`: see /v1/models`, { code: "model_not_found" });
    await this.unload(name);
  }

  /**
   * Loads a model beside another, wherever it is, then lets the other's aliases stand for it; one that is there already only gets
   * the aliases. @throws KilnError as `loadInto`, and for a name that is another's alias.
   */
  replace(old: string, source: ModelSource): Promise<ServedModel> {
    return this.#loads.do(async () => {
      const { models } = this.#options;
      const there = models.get(source.name);
      if (there?.name !== source.name) models.assertFree([source.name]);
      const model = there ?? (await this.#add(source));
      for (const [alias, { name }] of [...models])
        if (name === old && alias !== old) models.alias(alias, source.name);
      return model;
    });
  }

  async #load(name: string, given: string, aliases: readonly string[]): Promise<ServedModel> {
    this.#options.models.assertFree([name, ...aliases]);
    return this.#add({ name, aliases, path: await this.#confined(given) });
  }

  async #add(source: ModelSource): Promise<ServedModel> {
    const { models, settings, budget, load = loadInto } = this.#options;
    const { name, path } = source;
    budget.take(name, await cacheNeed(path, settings));
    try {
      const model = await load(models, source, settings, budget.of(name));
      say(`loaded ${name} from ${path}`);
      return model;
    } catch (error) {
      budget.give(name);
      throw error;
    }
  }

  /**
   * Takes a model out: nobody finds it any more, what runs on it finishes, and then its memory comes back.
   * @returns its name and the aliases that went with it. @throws KilnError for one that does not exist, and for an alias.
   */
  async unload(name: string): Promise<{ name: string; aliases: string[] }> {
    const { models, budget } = this.#options;
    const model = models.find(name);
    if (model.name !== name) {
      throw new KilnError(
        `\`${name}\` is an alias of \`${model.name}\`: unload that, or let the alias stand for no model (POST /v1/aliases, "model": null)`,
        { code: "is_alias" },
      );
    }
    const aliases = [...models].flatMap(([known, other]) =>
      other === model && known !== name ? [known] : [],
    );
    await models.remove(name);
    budget.give(name);
    say(`unloaded ${name}`);
    return { name, aliases };
  }

  /** See `ModelPool.alias`. */
  alias(alias: string, model: string | null): void {
    this.#options.models.alias(alias, model);
    say(model === null ? `${alias} stands for no model` : `${alias} stands for ${model}`);
  }

  /** The real path of a model below one of the folders. One message for all others, which tells nothing of the disk. */
  async #confined(given: string): Promise<string> {
    const { folders } = this.#options;
    if (folders.length === 0) {
      throw new KilnError("no model can be loaded: start the server with --model-dir FOLDER", {
        code: "no_model_dir",
      });
    }
    for (const folder of folders) {
      const path = resolve(folder, given);
      if (given.includes("\0") || !isWithin(path, resolve(folder))) continue;
      const root = await realpath(folder);
      const real = await realpath(path).catch(() => null);
      if (real === null || !isWithin(real, root)) continue;
      const model = await realpath(await modelAt(real));
      if (isWithin(model, root)) return model;
    }
    throw new KilnError(`${given.slice(0, 200)} is no model's path from a folder of --model-dir`, {
      code: "path_not_allowed",
    });
  }
}

const isWithin = (path: string, folder: string) =>
  path.startsWith(folder.endsWith(sep) ? folder : folder + sep);
