import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openDevice } from "../kernels/index.ts";
import { readAdapter } from "../models/formats/peft_directory.ts";
import { type AdapterConfig, PagedDecoder } from "../models/index.ts";
import { add, decoderOf, loraRowsSuite, untied } from "./support/lora_rows_suite.ts";
import { gpt2Adapters, llamaAdapters, writeAdapter } from "./support/tiny_adapters.ts";
import { tinyGpt2 } from "./support/tiny_decoders.ts";

const folder = mkdtempSync(join(tmpdir(), "kiln-lora-rows-"));
beforeAll(async () => {
  await openDevice();
});
afterAll(() => rmSync(folder, { recursive: true }));

loraRowsSuite("Llama", untied, llamaAdapters, 1e-5);
loraRowsSuite("GPT-2", tinyGpt2, gpt2Adapters, 1e-5);

describe("an adapter that cannot be mixed with others", () => {
  const refused: [string, Partial<AdapterConfig>, RegExp][] = [
    ["DoRA", { use_dora: true }, /has DoRA's magnitudes, which cannot be mixed .* merge it .*--to hf/],
    ["a head trained whole", { modules_to_save: ["lm_head"] }, /trains lm_head\.weight whole, which cannot/],
    [
      "a change of an embedding",
      { target_modules: ["embed_tokens"] },
      /changes the embedding "model.embed_t/,
    ],
    ["a large rank", { r: 65 }, /rank 65 at .*q_proj, above the 64 of --max-lora-rank/],
  ];
  it.each(refused)("is refused in one line: %s", async (name, config, message) => {
    const model = untied();
    const path = await writeAdapter(model, config, join(folder, "refused"), name.replaceAll(" ", "-"));
    const decoder = decoderOf(model);
    await expect(add(decoder, model, "refused", path)).rejects.toThrow(message);
    expect(() => decoder.adapters.slotOf("refused")).toThrow('there is no adapter "refused"');
    decoder.close();
  });

  it("or is one too many, or for another base, which names the tensor", async () => {
    const model = untied();
    const path = await writeAdapter(model, {}, join(folder, "refused"), "many");
    const sizes = { numBlocks: 8, blockSize: 8, maxSequences: 2, maxBlocksPerSequence: 4 };
    const decoder = new PagedDecoder(model, sizes, { maxAdapters: 1 });
    await add(decoder, model, "one", path);
    await expect(add(decoder, model, "two", path)).rejects.toThrow(/1 adapters already: unload one, or give/);
    decoder.adapters.remove("one");
    await add(decoder, model, "two", path);
    decoder.close();
    const wide = tinyGpt2();
    await expect(readAdapter(wide, path)).rejects.toThrow(/is the name of no module|q_proj/);
  });
});
