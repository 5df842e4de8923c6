import { tmpdir } from "node:os";
import path from "node:path";
import {
  addAdapter,
  type CausalLM,
  loadModel,
  removeAdapter,
  saveAdapter,
  useAdapter,
} from "../../models/index.ts";
import { prepareGeneration } from "./models.ts";
import type { Row } from "./row.ts";
import { answerLength, streamsModel, weightsRead } from "./streams.ts";

const rank = 8;
const streams = 16;

/** Writes a LoRA adapter of all linear layers of the blocks, whose B is not 0. */
async function writeAdapter(model: CausalLM, name: string): Promise<string> {
  const folder = path.join(tmpdir(), "kiln-bench", name);
  const adapter = addAdapter(model, { r: rank, target_modules: "all-linear" }, { name });
  for (const [key, parameter] of adapter.parameters())
    if (key.includes("lora_B")) parameter.write(new Float32Array(parameter.size).fill(0.01));
  useAdapter(model, name);
  await saveAdapter(folder, model, name);
  useAdapter(model, null);
  removeAdapter(model, name);
  return folder;
}

/** The 16 streams of `streamsRow`, each with one of so many adapters of rank 8 on all linear layers. */
export function adaptersRow(count: number): Row {
  return {
    name: `stories260K, ${streams} streams over ${count} adapter${count > 1 ? "s" : ""}`,
    flops: 2 * weightsRead * streams * answerLength,
    bytes: 4 * weightsRead * answerLength,
    unit: "GB/s",
    tokens: streams * answerLength,
    prepare: async () => {
      const { model } = await loadModel(await streamsModel());
      const adapterOf = (stream: number) => `adapter-${stream % count}`;
      const prepared = prepareGeneration(model, streams, 1, answerLength, adapterOf);
      for (let i = 0; i < count; i++)
        await prepared.runner.adapters.add(adapterOf(i), await writeAdapter(model, adapterOf(i)));
      return prepared;
    },
  };
}
