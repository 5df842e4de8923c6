import { existsSync, readFileSync } from "node:fs";
import { fileURLToPath, pathToFileURL } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { ggufPath, writeGguf } from "../bench/gguf.ts";
import { streamsModel } from "../bench/rows/streams.ts";
import { setDevice } from "../core/device.ts";
import { openDevice } from "../kernels/index.ts";
import { loadModel } from "../models/formats/hf_directory.ts";
import type { LlamaForCausalLM } from "../models/llama.ts";
import { PagedDecoder } from "../models/paged_decoder.ts";

const entry = fileURLToPath(new URL("../bench/node_modules/node-llama-cpp/dist/index.js", import.meta.url));

interface Sequence {
  evaluate(tokens: number[], options: object): AsyncIterable<number>;
}
interface LlamaCpp {
  LlamaLogLevel: { error: string };
  getLlama(options: object): Promise<{
    loadModel(options: object): Promise<{
      createContext(options: object): Promise<{ getSequence(): Sequence }>;
    }>;
  }>;
}

let model: LlamaForCausalLM;
beforeAll(async () => {
  await openDevice();
  model = (await loadModel(await streamsModel())).model as LlamaForCausalLM;
  await writeGguf(model);
});
afterAll(() => setDevice(null));

describe("the GGUF file of the benchmark", () => {
  it("holds every tensor once, in f32, within the file", () => {
    const file = readFileSync(ggufPath);
    expect(file.subarray(0, 4).toString()).toBe("GGUF");
    expect(Number(file.readBigUInt64LE(8))).toBe(model.namedParameters().size);
    const bytes = 4 * model.numParameters;
    expect(file.length).toBeGreaterThan(bytes);
    expect(file.length).toBeLessThan(bytes + 20_000);
    expect(file.toString("latin1")).not.toContain("undefined");
  });

  it.runIf(existsSync(entry))(
    "makes llama.cpp write kiln's greedy tokens (needs the peers of bench/)",
    async () => {
      const { getLlama, LlamaLogLevel } = (await import(pathToFileURL(entry).href)) as LlamaCpp;
      const llama = await getLlama({ gpu: false, build: "never", logLevel: LlamaLogLevel.error });
      const theirs = await llama.loadModel({ modelPath: ggufPath, gpuLayers: 0 });
      const sequence = (await theirs.createContext({ contextSize: 256, threads: 1 })).getSequence();
      const decoder = new PagedDecoder(model, {
        numBlocks: 16,
        blockSize: 16,
        maxSequences: 1,
        maxBlocksPerSequence: 16,
      });
      const blockTable = Array.from({ length: 16 }, (_, i) => i);
      let token = 1;
      let start = 0;
      for await (const expected of sequence.evaluate([1], { temperature: 0, yieldEogToken: true })) {
        [token] = (await decoder.greedy([{ tokens: [token], start, blockTable, rows: [0] }])) as unknown as [
          number,
        ];
        expect(token, `token ${start}`).toBe(expected);
        if (++start === 150) break;
      }
      decoder.close();
    },
  );
});
