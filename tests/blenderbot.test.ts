import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { verify } from "../bench/verify/index.ts";
import { KilnError } from "../core/errors.ts";
import { scope } from "../core/scope.ts";
import { noGrad } from "../core/tape.ts";
import { tensor } from "../core/tensor.ts";
import { openDevice } from "../kernels/index.ts";
import { createModel, decoderConfig, parseModelConfig, readModelConfig } from "../models/architectures.ts";
import { BeamSearch, parseGeneration } from "../models/beam_search.ts";
import type { BlenderbotConfig } from "../models/blenderbot_config.ts";
import type { EncoderDecoder } from "../models/encoder_decoder.ts";
import { fromPretrained, loadModel, loadWeights, writeModelFiles } from "../models/formats/hf_directory.ts";
import { readModelWeights } from "../models/formats/safetensors.ts";
import { pipeline } from "../models/pipeline.ts";
import { wordPieces } from "./support/word_pieces.ts";

const golden = new URL("./fixtures/golden/models/", import.meta.url).pathname;
const folder = mkdtempSync(join(tmpdir(), "kiln-blenderbot-"));
afterAll(() => rmSync(folder, { recursive: true }));

let model: EncoderDecoder;
beforeAll(async () => {
  await openDevice();
  const path = join(golden, "blenderbot");
  model = createModel((await readModelConfig(path)) as BlenderbotConfig);
  loadWeights(model, await readModelWeights(path));
});

const texts = [[9, 30, 4, 22, 17], [11], [5, 6, 38, 12, 25, 3, 7, 19]];
const greedy = {
  eos_token_id: null,
  max_new_tokens: 9,
  encoder_no_repeat_ngram_size: 0,
  forced_eos_token_id: null,
};

it("has transformers' hidden states, logits, losses, gradients and generated ids, norms before or behind", async () => {
  const lines: string[] = [];
  const options = { write: (line: string) => void lines.push(line), filter: "blenderbot" };
  const counts = await verify(golden, options);
  expect(counts, lines.join("\n")).toMatchObject({ passed: 16, failed: 0, skipped: 0 });
});

it("generates from its cache what whole passes give", async () => {
  const [found] = await model.generate([texts[0]], greedy);
  const answer = [found[0]];
  while (answer.length < found.length) {
    const logits = scope(() =>
      noGrad(() => {
        const source = { tokens: tensor(texts[0], [1, 5], "i32") };
        const input = tensor(answer, [1, answer.length], "i32");
        return model.logits(model.decode(input, model.encode(source), source));
      }),
    );
    const last = Array.from(await logits.data()).slice(-40);
    answer.push(last.indexOf(Math.max(...last)));
  }
  expect(found).toEqual(answer);
  expect(new Set(found).size).toBeGreaterThan(1);
});

it.each([
  [true, [4, 1, 0]],
  [false, [4, 1, 0]],
  ["never", [4, 1, 1, 1, 1, 1]],
])("with early_stopping %j ends where transformers does", (early_stopping, wanted) => {
  const given = { num_beams: 2, max_length: 6, decoder_start_token_id: 4, eos_token_id: 0, early_stopping };
  const search = new BeamSearch([1], parseGeneration(given, 64, "the test"));
  // By hand: 0 and 1 0 end with ln 0.45 = -0.80 and (ln 0.5 + ln 0.5) / 2 = -0.69; the best unfinished one, 1 1, has (ln 0.5 +
  // ln 0.4) / 2 = -0.80, a little less than the worse of them, but its sum of -1.61 over five tokens would be -0.32.
  const [first, second, later] = [
    [0.45, 0.5, 0.05],
    [0.5, 0.4, 0.1],
    [0.001, 0.998, 0.001],
  ].map((row) => row.map(Math.log));
  for (const row of [first, second, later, later, later])
    if (!search.done) search.advance(Float32Array.from([...row, ...row]));
  expect(search.done).toBe(true);
  expect(search.best).toEqual(wanted);
});

it("gives each text of a batch the answer that it has alone, and padded rows the loss of whole ones", async () => {
  const options = { ...greedy, num_beams: 3, no_repeat_ngram_size: 2 };
  const together = await model.generate(texts, options);
  for (const [i, text] of texts.entries())
    expect(await model.generate([text], options)).toEqual([together[i]]);

  const length = 8;
  const answers = [[7, 8, 9], [4], [30, 31]];
  const rows = (lists: number[][], size: number, fill: number) =>
    tensor(
      lists.flatMap((list) => [...list, ...new Array(size - list.length).fill(fill)]),
      [lists.length, size],
      "i32",
    );
  const lossOf = async (chosen: number[], size: number, answerSize: number) => {
    const real = chosen.flatMap((i) => Array.from({ length: size }, (_, at) => Number(at < texts[i].length)));
    const loss = scope(() =>
      noGrad(() =>
        model.loss({
          tokens: rows(
            chosen.map((i) => texts[i]),
            size,
            0,
          ),
          mask: tensor(real, [chosen.length, 1, 1, size], "bool"),
          labels: rows(
            chosen.map((i) => answers[i]),
            answerSize,
            -100,
          ),
        }),
      ),
    );
    return loss.item();
  };
  let sum = 0;
  for (const i of [0, 1, 2]) sum += await lossOf([i], texts[i].length, answers[i].length);
  expect(await lossOf([0, 1, 2], length, 5)).toBeCloseTo(sum, 3);
});

it("comes back from a directory with its bias and its settings of generation, in f32 and f16, and answers texts", async () => {
  const tokenizer = wordPieces();
  const written = createModel(
    parseModelConfig({ ...model.config, vocab_size: 40, num_beams: 2 }) as BlenderbotConfig,
  ).init(3);
  written
    .stateDict()
    .get("final_logits_bias")!
    .write(Float32Array.from({ length: 40 }, (_, i) => i / 64));
  written.generation = { ...written.config, num_beams: 2, max_length: 8 };
  await written.savePretrained(join(folder, "f32"), tokenizer);
  const { model: loaded } = await fromPretrained(join(folder, "f32"));
  const bias = loaded.stateDict().get("final_logits_bias")!;
  expect((await bias.data())[39]).toBe(39 / 64);
  expect((loaded as EncoderDecoder).generation).toMatchObject({ num_beams: 2, max_length: 8 });
  const answer = await pipeline("text2text-generation", join(folder, "f32"));
  const [first, second] = await answer(["this film is good", "a cat"]);
  expect(first.generated_text).not.toBe("");
  expect([second]).toEqual(await answer("a cat"));
  await writeModelFiles(folder, written, tokenizer, { halves: true });
  const halved = await readModelWeights(folder);
  expect([...halved.keys()].sort()).toEqual([...(await readModelWeights(join(folder, "f32"))).keys()].sort());
  expect(JSON.parse(readFileSync(join(folder, "config.json"), "utf8"))).toMatchObject({
    architectures: ["BlenderbotForConditionalGeneration"],
    dtype: "float16",
    is_encoder_decoder: true,
  });
  await expect(loadModel(folder)).rejects.toThrow(
    /BlenderbotForConditionalGeneration, which answers a text as a whole/,
  );
});

it.each<[object, RegExp]>([
  [{ d_model: 15 }, /d_model 15 is not a multiple of encoder_attention_heads/],
  [{ activation_function: "mish" }, /activation_function is "mish"; kiln computes gelu, /],
  [{ tie_word_embeddings: false }, /tie_word_embeddings is false/],
  [{ decoder_layerdrop: 0.1 }, /decoder_layerdrop is not 0/],
  [{ is_encoder_decoder: false }, /is_encoder_decoder is false/],
  [{ quantization_config: {} }, /quantization_config/],
])("refuses the config %j in one line that names the key", (change, message) => {
  const attempt = () => parseModelConfig({ ...model.config, ...change }, "m/config.json");
  expect(attempt).toThrow(KilnError);
  expect(attempt).toThrow(message);
  expect(attempt).toThrow(/^m\/config\.json: [^\n]*$/);
});

it("refuses what it cannot generate", async () => {
  const refused = (options: object, message: RegExp, text = texts[1]) =>
    expect(model.generate([text], options)).rejects.toThrow(message);
  await refused({ num_beams: 0 }, /num_beams is 0; expected at least 1/);
  await refused({ max_new_tokens: 100 }, /answers of 101 tokens are asked for, the model has 64 positions/);
  await refused({ num_beans: 2 }, /num_beans/);
  await refused({}, /text 1 has 0 tokens/, []);
  const sampled = createModel(model.config as BlenderbotConfig);
  sampled.generation = { do_sample: true };
  await expect(sampled.generate(texts)).rejects.toThrow(/do_sample is true; kiln generates without it/);
  expect(() => decoderConfig(model.config as BlenderbotConfig, "m")).toThrow(/text2text-generation/);
});
