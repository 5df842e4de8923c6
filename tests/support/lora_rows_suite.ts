import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { WebGpuDevice } from "../../core/webgpu/device.ts";
import { openDevice } from "../../kernels/index.ts";
import { readAdapter } from "../../models/formats/peft_directory.ts";
import {
  type AdapterConfig,
  type CausalLM,
  loadAdapter,
  PagedDecoder,
  type PagedItem,
  useAdapter,
} from "../../models/index.ts";
import { writeAdapter } from "./tiny_adapters.ts";
import { difference, largest, positions, read, tinyLlama, tokens } from "./tiny_decoders.ts";

export const untied = () => tinyLlama({ tie_word_embeddings: false });
export const decoderOf = (model: CausalLM) =>
  new PagedDecoder(model, { numBlocks: 32, blockSize: 8, maxSequences: 8, maxBlocksPerSequence: 4 });
export const add = async (decoder: PagedDecoder, model: CausalLM, name: string, path: string) =>
  decoder.adapters.add(name, path, await readAdapter(model, path));
/** The row of tokens, as the sequence with this number and an adapter. */
const item = (sequence: number, adapter: string | null): PagedItem => ({
  ...{ tokens, start: 0, rows: positions, adapter },
  blockTable: [0, 1, 2].map((i) => 3 * sequence + i),
});
const flat = (rows: readonly Float32Array[]) => rows.flatMap((values) => [...values]);

/**
 * Tests of adapters side by side on one model: each row as if its adapter were the only one.
 * @param tolerance of logits, beside those of a model with one adapter attached, which rounds to f16 elsewhere
 */
export function loraRowsSuite(
  kind: string,
  make: () => CausalLM,
  configs: Record<string, Partial<AdapterConfig>>,
  tolerance: number,
): void {
  describe(`adapters of ${kind} side by side`, () => {
    const folder = mkdtempSync(join(tmpdir(), "kiln-lora-rows-"));
    let gpu: WebGpuDevice;
    const names = Object.keys(configs);
    let model: CausalLM;
    const paths = new Map<string, string>();
    beforeAll(async () => {
      gpu = await openDevice();
      gpu.poison = true;
      model = make();
      for (const [name, config] of Object.entries(configs))
        paths.set(name, await writeAdapter(model, config, folder, name));
    });
    afterAll(() => rmSync(folder, { recursive: true }));
    const withAll = async (order: readonly string[] = names) => {
      const decoder = decoderOf(model);
      for (const name of order) await add(decoder, model, name, paths.get(name)!);
      return decoder;
    };

    it("compute what the model does with one attached, and the base what it does alone", async () => {
      const decoder = await withAll();
      const asked = [...names, null];
      const logits = await decoder.forward(asked.map((name, i) => item(i, name)));
      const alone = decoderOf(model);
      expect(logits.at(-1)).toEqual((await alone.forward([item(0, null)]))[0]);
      alone.close();
      const base = await read(model);
      for (const [i, name] of names.entries()) {
        await loadAdapter(model, paths.get(name)!, name);
        useAdapter(model, name);
        const wanted = await read(model);
        useAdapter(model, null);
        expect(difference(wanted, base), name).toBeGreaterThan(0.05 * largest(base));
        expect(difference(flat(logits[i]), wanted), name).toBeLessThan(tolerance * largest(wanted));
      }
      decoder.close();
    });

    it("give a row its bits beside any others, in any slot, however it is cut", async () => {
      const decoder = await withAll();
      const alone = new Map<string | null, Float32Array[]>();
      for (const name of [...names, null]) alone.set(name, (await decoder.forward([item(0, name)]))[0]);
      const other = await withAll(names.toReversed());
      const schedule = fc.record({
        asked: fc.array(fc.constantFrom(...names, null), { minLength: 1, maxLength: 8 }),
        cut: fc.constantFrom(1, 5, tokens.length),
        allRows: fc.boolean(),
        on: fc.constantFrom(decoder, other),
      });
      await fc.assert(
        fc.asyncProperty(schedule, async ({ asked, cut, allRows, on }) => {
          const rows: Float32Array[][] = asked.map(() => []);
          const wanted = positions.filter((at) => allRows || (at + 1) % cut === 0);
          for (let start = 0; start < tokens.length; start += cut) {
            const part = tokens.slice(start, start + cut);
            const items = asked.map((name, i) => ({
              ...item(i, name),
              ...{ tokens: part, start, rows: wanted.map((at) => at - start).filter((at) => at in part) },
            }));
            for (const [i, values] of (await on.forward(items)).entries()) rows[i].push(...values);
          }
          expect(rows).toEqual(asked.map((name) => wanted.map((at) => alone.get(name)![at])));
        }),
        { numRuns: 8 },
      );
      decoder.close();
      other.close();
    });

    it("do not change each other's bits by being there, and leave no memory behind", async () => {
      const all = await withAll();
      const alone = new Map<string, Float32Array[]>();
      for (const name of names) alone.set(name, (await all.forward([item(0, name)]))[0]);
      all.close();
      const decoder = await withAll([names[0]]);
      const before = (await decoder.forward([item(0, names[0])]))[0];
      expect(before).toEqual(alone.get(names[0]));
      for (const name of names.slice(1)) {
        await add(decoder, model, name, paths.get(name)!);
        expect((await decoder.forward([item(0, name)]))[0], name).toEqual(alone.get(name));
      }
      expect((await decoder.forward([item(0, names[0])]))[0]).toEqual(before);
      for (const name of names.slice(1)) decoder.adapters.remove(name);
      expect((await decoder.forward([item(0, names[0])]))[0]).toEqual(before);
      // In a slot whose last adapter changed layers that this one does not.
      const [small, large] = names.slice(0, 2);
      const reused = await withAll([large, ...names.slice(2)]);
      reused.adapters.remove(large);
      await add(reused, model, small, paths.get(small)!);
      expect((await reused.forward([item(0, small)]))[0]).toEqual(before);
      reused.close();
      const bytes: number[] = [];
      for (let cycle = 0; cycle < 3; cycle++) {
        for (const name of names.slice(1)) await add(decoder, model, name, paths.get(name)!);
        await decoder.forward(names.map((name, i) => item(i, name)));
        for (const name of names.slice(1)) decoder.adapters.remove(name);
        await decoder.forward([item(0, names[0])]);
        bytes.push(gpu.bytesInUse);
      }
      expect(new Set(bytes).size).toBe(1);
      decoder.close();
    });

    it("cost rows of the base no dispatch", async () => {
      const dispatches = async (decoder: PagedDecoder) => {
        await decoder.greedy([item(0, null)]);
        const before = gpu.recorder.dispatches;
        await decoder.greedy([item(0, null)]);
        return gpu.recorder.dispatches - before;
      };
      const [loaded, plain] = [await withAll(), decoderOf(model)];
      expect(await dispatches(loaded)).toBe(await dispatches(plain));
      for (const decoder of [loaded, plain]) decoder.close();
    });
  });
}
