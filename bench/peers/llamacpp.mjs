// llama.cpp on one thread of the processor, through node-llama-cpp: the same weights in f32, greedy, by token ids.
import { getLlama, LlamaLogLevel } from "node-llama-cpp";
import { installedVersion } from "./version.mjs";

export async function open() {
  const quiet = { logLevel: LlamaLogLevel.error, progressLogs: false };
  const llama = await getLlama({ gpu: false, build: "never", maxThreads: 1, ...quiet });
  return {
    version: installedVersion("node-llama-cpp"),
    native: true,
    ops: {
      async streams(count, prompt, length, file) {
        const model = await llama.loadModel({ modelPath: file, gpuLayers: 0 });
        const settings = {
          contextSize: prompt + length + 8,
          sequences: count,
          threads: 1,
          batchSize: Math.max(64, prompt),
        };
        const context = await model.createContext(settings);
        const sequences = Array.from({ length: count }, () => context.getSequence());
        let requests = 0;
        const generate = async (sequence) => {
          const ids = Array.from({ length: prompt }, (_, t) => 1 + ((31 * requests + 7919 * t) % 500));
          requests++;
          await sequence.clearHistory();
          let tokens = 0;
          const options = { temperature: 0, yieldEogToken: true };
          for await (const _ of sequence.evaluate(ids, options)) if (++tokens === length) break;
          if (tokens < length) throw new Error(`it stopped after ${tokens} tokens`);
        };
        return async (times) => {
          for (let i = 0; i < times; i++) await Promise.all(sequences.map(generate));
        };
      },
    },
  };
}
