import { currentDirectory } from "../../core/platform/files.ts";
import { readModelConfig } from "../../models/architectures.ts";
import type { Encoder } from "../../models/encoder.ts";
import { readTokenizer } from "../../models/formats/hf_directory.ts";
import { encoderTask, sentenceSettings } from "../encoder_task.ts";
import type { ModelLoader, ModelSource } from "../loading.ts";
import type { ModelPool, ServedModel } from "../models.ts";
import type { EngineProcess } from "./engine_process.ts";
import { RemoteEngine } from "./remote_engine.ts";

let loads = 0;

/**
 * Loads models into a process of engines and adds them to a pool of this one, which reads no more of a model than its
 * tokenizer and configuration.
 */
export function loaderInto(engines: EngineProcess): ModelLoader {
  return async (pool, source, settings, cacheBytes) => {
    pool.assertFree([source.name, ...source.aliases]);
    // Not the name alone: one that is unloaded may still be there when another takes its name.
    const model = `${source.name} ${++loads}`;
    const { path } = source;
    const reading = readTokenizer(path);
    // It is waited for below, and what the process says of the model's files comes first.
    reading.catch(() => {});
    const hosted = await engines.load({ model, path, settings, cacheBytes });
    const close = () => engines.unload(model);
    try {
      return await add(pool, source, hosted, { tokenizer: await reading, close });
    } catch (error) {
      await close();
      throw error;
    }
  };
}

async function add(
  pool: ModelPool,
  { name, aliases, path }: ModelSource,
  { loaded, port }: Awaited<ReturnType<EngineProcess["load"]>>,
  rest: { tokenizer: Awaited<ReturnType<typeof readTokenizer>>; close: () => Promise<void> },
): Promise<ServedModel> {
  const { facts } = loaded;
  if (port instanceof RemoteEngine)
    return pool.addWriter({ name, aliases, facts, path, engine: port, ...rest });
  const config = (await readModelConfig(path)) as Encoder["config"];
  const task = encoderTask(config, await sentenceSettings(await currentDirectory(path), path), path);
  return pool.addReader({ name, aliases, facts, engine: port, task, ...rest });
}
