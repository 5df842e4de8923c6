import { existsSync } from "node:fs";
import { join } from "node:path";
import { KilnError } from "../core/errors.ts";
import { currentDirectory } from "../core/platform/files.ts";
import { isGguf } from "../models/formats/gguf.ts";
import { Tokenizer } from "../tokenizer/index.ts";
import type { ModelPool, ServedModel } from "./models.ts";
import type { Frontend } from "./text/frontend.ts";

/** A low-rank adapter to serve. */
export interface AdapterSource {
  /** The name that clients give. */
  readonly name: string;
  /** A folder of PEFT, or a GGUF file. */
  readonly path: string;
  /** The name of its model; absent: the only one that writes text. */
  readonly base?: string | undefined;
}

let loads = 0;

/**
 * Puts an adapter beside its model, which goes on meanwhile, and adds it to the pool.
 * @throws KilnError for one that the model cannot take (see `readAdapter` and `AdapterStacks.add`), or has no memory for.
 */
export async function loadAdapterInto(
  pool: ModelPool,
  { name, path, base }: AdapterSource,
): Promise<ServedModel> {
  pool.assertFree([name]);
  const held = pool.hold();
  try {
    const wanted = base ?? onlyWriter(pool);
    const parent = held.get(wanted) ?? pool.find(wanted);
    const isModel = parent.kind === "text" && parent.parent === null;
    const host = isModel ? parent.frontend.engine.runner.adapters : undefined;
    if (!isModel || !host) {
      throw new KilnError(`\`${wanted}\` takes no adapters: they are for models that write text`, {
        code: "adapter_unsupported",
      });
    }
    const tokenizer = await adapterTokenizer(path, parent.frontend);
    // Not the name alone: what is cached for another adapter that had this name is not this one's.
    const adapter = `${name} ${++loads}`;
    await host.add(adapter, path);
    const close = () => host.remove(adapter);
    try {
      return pool.addAdapter({ name, parent, adapter, root: path, tokenizer, close });
    } catch (error) {
      await close();
      throw error;
    }
  } finally {
    held.release();
  }
}

/** The name of the only model that writes text. @throws KilnError where there is none or a choice. */
function onlyWriter(pool: ModelPool): string {
  const names = [...pool].flatMap(([known, { kind, name, parent }]) =>
    kind === "text" && parent === null && known === name ? [name] : [],
  );
  if (names.length === 1) return names[0];
  const problem = names.length === 0 ? "there is none" : `choose one of ${names.join(", ")}`;
  throw new KilnError(`an adapter needs a model that writes text as its base_model_name: ${problem}`, {
    code: "base_missing",
  });
}

/** An adapter's own tokenizer where its folder has one, since that knows what a chat looks like; otherwise its model's. */
export async function adapterTokenizer(path: string, { tokenizer, engine }: Frontend): Promise<Tokenizer> {
  if (isGguf(path)) return tokenizer;
  const directory = await currentDirectory(path);
  if (!existsSync(join(directory, "tokenizer.json"))) return tokenizer;
  const own = Tokenizer.load(directory);
  const { vocabSize } = engine.runner;
  if (own.vocabSize <= Math.max(tokenizer.vocabSize, vocabSize)) return own;
  throw new KilnError(
    `${path} has ${own.vocabSize} tokens and its model ${vocabSize}: it trains the new ones whole, which cannot be mixed with other adapters ` +
      `in one batch; merge it into its base (kiln export ${path} --to hf) and serve that`,
    { code: "adapter_unsupported" },
  );
}
