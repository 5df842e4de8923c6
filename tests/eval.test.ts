import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gunzipSync } from "node:zlib";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Calibration } from "../core/statistics/calibration.ts";
import { TextSize } from "../core/statistics/words.ts";
import { openDevice } from "../kernels/index.ts";
import { type LoadedModel, loadModel } from "../models/index.ts";
import { pipeline } from "../models/pipeline.ts";
import type { Tokenizer } from "../tokenizer/index.ts";
import { evaluateChoice, scoreChoices } from "../train/eval/choice.ts";
import { evaluateClassify } from "../train/eval/classify.ts";
import { compareModels } from "../train/eval/compare.ts";
import { evaluatePerplexity, windowsOf } from "../train/eval/perplexity.ts";
import { evaluateText } from "../train/eval/text.ts";
import { writeReport } from "../train/report/evaluation.ts";
import { labels, randomBert, texts, wordPieces } from "./support/word_pieces.ts";

const data = new URL("../../shared/data/", import.meta.url).pathname;
const hasData = existsSync(data);
const folder = mkdtempSync(join(tmpdir(), "kiln-eval-"));
afterAll(() => rmSync(folder, { recursive: true }));
const file = (name: string, text: string) => {
  writeFileSync(join(folder, name), text);
  return join(folder, name);
};

/** A tokenizer of one token per character. */
const letters = {
  bosId: 1,
  eosId: null,
  encode: async (text: string) => [...text].map((letter) => letter.codePointAt(0)!),
} as unknown as Tokenizer;

it("windows score every token once, in order, after at most `context` tokens", async () => {
  const text = fc.string({ unit: fc.constantFrom("a", "b", "c"), maxLength: 40 });
  const cases = fc.tuple(fc.array(fc.array(text, { minLength: 1 }), { minLength: 1 }), fc.nat(8), fc.nat(8));
  await fc.assert(
    fc.asyncProperty(cases, async ([documents, stride, more]) => {
      const options = { stride: stride + 1, context: stride + 1 + more };
      const parts = documents.flatMap((texts) =>
        texts.map((text, i) => ({ text, ends: i === texts.length - 1 })),
      );
      const scored: string[] = [];
      let open = "";
      for await (const { tokens, from, ends } of windowsOf(
        letters,
        (async function* () {
          yield* parts;
        })(),
        options,
      )) {
        expect(from).toBeGreaterThan(0);
        expect(tokens.length - 1).toBeLessThanOrEqual(Math.max(options.context, 1));
        expect(open.endsWith(String.fromCodePoint(...tokens.slice(0, from).filter((id) => id > 1)))).toBe(
          true,
        );
        open += String.fromCodePoint(...tokens.slice(from));
        if (!ends) continue;
        scored.push(open);
        open = "";
      }
      expect(scored).toEqual(documents.map((texts) => texts.join("")));
    }),
  );
});

it("counts the words and bytes of a text alike, whole and in parts", () => {
  const unit = fc.constantFrom(" ", "\n", "é", "a", "日", "\u3000");
  fc.assert(
    fc.property(fc.array(fc.string({ unit })), (parts) => {
      const size = parts.reduce((sum, part) => sum.add(part), new TextSize());
      expect(size).toMatchObject({
        words: parts.join("").split(/\s+/).length,
        bytes: Buffer.byteLength(parts.join("")),
      });
    }),
  );
});

describe.skipIf(!hasData)("of stories260K (skipped: no ../shared/data)", () => {
  let loaded: LoadedModel;
  let stories: string;
  beforeAll(async () => {
    await openDevice();
    loaded = await loadModel(join(data, "models/stories260K-hf"));
    const lines = gunzipSync(readFileSync(join(data, "text/tinystories_sample2000.jsonl.gz")))
      .toString()
      .split("\n");
    stories = file("stories.jsonl", lines.slice(1, 3).join("\n"));
  });

  // transformers 5.18 in float64 log-softmax, windows as lm-eval's get_rolling_token_windows cuts them.
  it.each([
    [{ context: 512, stride: 512 }, 462.5975682303933 + 392.169408325574],
    [{ context: 128, stride: 128 }, 487.4992085225009 + 418.34146289564353],
    [{ context: 128, stride: 32 }, 465.6315055445276 + 395.04621826713776],
  ])("perplexities equal transformers' with windows %o", async (windows, nats) => {
    const report = await evaluatePerplexity(loaded, "stories", { data: [stories], ...windows, speed: true });
    const { values } = report as { values: Record<string, number> };
    expect(values).toMatchObject({ documents: 2, tokens: 363 + 344 });
    expect(values.token_perplexity).toBeCloseTo(Math.exp(nats / (363 + 344)), 5);
    expect(values.word_perplexity).toBeCloseTo(Math.exp(nats / values.words), 3);
    expect(values.byte_perplexity).toBeCloseTo(Math.exp(nats / values.bytes), 5);
    expect(values.bits_per_byte).toBeCloseTo(nats / values.bytes / Math.LN2, 5);
    expect(values.speed).toMatchObject({ parameters: 260032 });
    await writeReport(join(folder, "report"), report);
    const written = (name: string) => readFileSync(join(folder, "report", name), "utf8");
    expect(JSON.parse(written("report.json"))).toEqual(values);
    expect(written("report.md")).toContain("| bits_per_byte");
    expect(written("report.html")).toContain("<td>bits_per_byte</td>");
  });

  it("refuses windows that the model cannot read or that leave out tokens", async () => {
    const run = (flags: object) => evaluatePerplexity(loaded, "stories", { data: [stories], ...flags });
    await expect(run({ context: 513 })).rejects.toThrow("--context 513 is more than the 512 tokens");
    await expect(run({ context: 8, stride: 9 })).rejects.toThrow("--stride 9 is more than the context of 8");
  });

  // Sums of transformers' log-probabilities: -0.0766 and -82.06; -5.34 and -7.50; -15.36 and -4.69; -0.274 and -37.6.
  const questions = [
    {
      context: "Once upon a time, there was a little girl named",
      choices: ["Lily", "xylophone quartz"],
      answer: 0,
    },
    { context: "The sun was very ", choices: ["bright", "of"], answer: "of" },
    { context: "Tom went to the park. He saw a", choices: ["zzz", "big dog"], answer: [1] },
    { context: "", choices: ["Once upon a time", "qqq"], answer: 0 },
  ];
  const lines = (rows: object[]) => rows.map((row) => JSON.stringify(row)).join("\n");

  it("scores choices as transformers does", async () => {
    const long = { context: "a ".repeat(600), choices: ["a", "b"], answer: 0 };
    const path = file("questions.jsonl", lines([...questions, long]));
    const found: number[][] = [];
    for await (const { logLikelihoods } of scoreChoices(loaded, [path], () => {})) found.push(logLikelihoods);
    const expected = [
      [-0.07659982575029248, -82.06022313258961],
      [-5.335513532850294, -7.49874117760958],
      [-15.363677098500046, -4.687478261579614],
      [-0.27409074434075453, -37.618302490667894],
    ];
    expect(found).toHaveLength(4);
    for (const [i, value] of found.flat().entries()) expect(value).toBeCloseTo(expected.flat()[i], 3);
    const { values } = await evaluateChoice(loaded, "stories", { data: [path] });
    expect(values).toMatchObject({
      acc: 0.75,
      questions: 4,
      left_out: { "questions longer than the model's context": 1 },
    });
  });

  it.each([
    [
      { context: "a", choices: ["b"], answer: 0 },
      "questions.jsonl row 1 (line 1): choices must be a list of two texts",
    ],
    [
      { context: "a", choices: ["b", "c"], answer: "d" },
      'answer "d" is none of the choices; give the index (0 to 1)',
    ],
    [{ context: "a", options: ["b", "c"], answer: 0 }, "choices"],
  ])("refuses the question %j", async (question, message) => {
    const path = file("bad_questions.jsonl", lines([question]));
    await expect(evaluateChoice(loaded, "stories", { data: [path] })).rejects.toThrow(message);
  });

  it("finds a model equal to itself, and another from its base by a paired test", async () => {
    const path = file("questions.jsonl", lines(questions));
    const model = join(data, "models/stories260K-hf");
    const same = await compareModels(["a", "b"], [model, model], { task: "choice", data: [path] });
    const [acc] = same.values.metrics as { metric: string }[];
    expect(acc).toMatchObject({
      metric: "acc",
      a: 0.75,
      b: 0.75,
      difference: 0,
      interval: [0, 0],
      pValue: 1,
    });
    expect(acc).toMatchObject({ mcnemar: { bothRight: 3, bothWrong: 1, exact: 1 } });
    const other = join(folder, "noise");
    const noise = await loadModel(model);
    await noise.model.init(1).savePretrained(other, noise.tokenizer);
    const { values } = await compareModels(["a", "b"], [model, other], {
      task: "perplexity",
      data: [stories],
      context: 128,
    });
    const bytes = readFileSync(stories, "utf8")
      .split("\n")
      .map((line) => Buffer.byteLength(JSON.parse(line).text))
      .reduce((a, b) => a + b);
    const [bits] = values.metrics as { a: number; b: number; interval: number[] }[];
    expect(bits.a).toBeCloseTo((487.4992085225009 + 418.34146289564353) / Math.LN2 / bytes, 3);
    expect(bits.b).toBeGreaterThan(3);
    expect(bits.interval[0]).toBeGreaterThan(1);
    const one = file("one.txt", "a document");
    const alone = compareModels(["a", "b"], [model, model], { task: "perplexity", data: [one] });
    await expect(alone).rejects.toThrow("has 1 item that both models read; a comparison needs 2");
  });
});

it("scores texts as sacrebleu, with its signatures, and refuses files that do not fit together", async () => {
  const hypotheses = file(
    "hyp.txt",
    "The dog bit the man.\nIt wasn't surprising.\nThe man had just bitten him.\n",
  );
  const references = [
    file("ref1.txt", "The dog bit the man.\nIt was not unexpected.\nThe man bit him first.\n"),
    file("ref2.txt", "The dog had bit the man.\nNo one was surprised.\nThe man had bitten the dog.\n"),
  ];
  const two = await evaluateText({ hypotheses, references });
  expect(two.values).toMatchObject({
    segments: 3,
    bleu: { signature: "nrefs:2|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0" },
    chrf: { signature: "nrefs:2|case:mixed|eff:yes|nc:6|nw:0|space:no|version:2.6.0" },
  });
  const scores = ({ values }: { values: object }) => {
    const { bleu, chrf } = values as Record<"bleu" | "chrf", { score: number }>;
    return [bleu.score, chrf.score];
  };
  // sacrebleu 2.6.0
  expect(scores(two)[0]).toBeCloseTo(48.530827009929865, 6);
  expect(scores(two)[1]).toBeCloseTo(59.72751782684763, 6);
  const flags = {
    hypotheses,
    references: references.slice(0, 1),
    tokenize: "none",
    lowercase: true,
  } as const;
  const [bleu, chrf] = scores(await evaluateText(flags));
  expect(bleu).toBeCloseTo(44.428088917702794, 6);
  expect(chrf).toBeCloseTo(50.043063606582294, 6);
  const short = file("short.txt", "one line\n");
  await expect(evaluateText({ hypotheses, references: [short] })).rejects.toThrow(
    "short.txt has 1 lines, " + hypotheses + " has more; give one line per segment",
  );
  const empty = file("empty.txt", "");
  await expect(evaluateText({ hypotheses: empty, references: [empty] })).rejects.toThrow(
    "empty.txt is empty",
  );
});

it("measures a classifier by the names of its labels, whatever the order of the data", async () => {
  await openDevice();
  const loaded = { model: randomBert("ForSequenceClassification", labels), tokenizer: wordPieces() };
  const says = (await (
    await pipeline("text-classification", loaded)
  )(texts)) as { label: string; score: number }[];
  const right = texts.map((text, i) => ({ text, label: says[i].label }));
  const wrong = { text: texts[0], label: ["O", "bad", "good"].find((label) => label !== says[0].label) };
  const rows = [...right, wrong, { text: "film ".repeat(60), label: "O" }];
  const path = file("rows.jsonl", rows.map((row) => JSON.stringify(row)).join("\n"));
  const report = await evaluateClassify(loaded, "bert", { data: [path] });
  const whole = file("whole.jsonl", right.map((row) => JSON.stringify(row)).join("\n"));
  const { tables } = await evaluateClassify(loaded, "bert", { data: [whole] }); // which leave nothing out to count
  expect(tables.filter(({ rows }) => rows.length === 0)).toEqual([]);
  const { accuracy, ece } = report.values as Record<string, number>;
  expect(accuracy).toBeCloseTo(5 / 6, 12);
  const bins = new Calibration();
  for (const [i, { score }] of [...says, says[0]].entries()) bins.add(score, i < 5);
  expect(ece).toBeCloseTo(bins.value(), 6);
  expect(report.values).toMatchObject({ texts: 6, left_out: { "texts longer than the model's context": 1 } });
  expect(report.figures!.map(({ title }) => title)).toEqual(["Confusion matrix", "Reliability diagram"]);
  const other = file("other.jsonl", '{"text":"a","label":"godo"}\n{"text":"b","label":"3"}');
  await expect(evaluateClassify(loaded, "bert", { data: [other] })).rejects.toThrow(
    'the data has labels that the model does not know: "godo", "3" (did you mean "good"?)',
  );
  const masked = { ...loaded, model: randomBert("ForMaskedLM") };
  await expect(evaluateClassify(masked, "m", { data: [path] })).rejects.toThrow(
    "m is a BertForMaskedLM without labels to choose from",
  );
});

it("masks each token of a text once for pseudo-perplexity, in windows where it is long", async () => {
  await openDevice();
  const loaded = { model: randomBert("ForMaskedLM"), tokenizer: wordPieces() };
  const fill = await pipeline("fill-mask", loaded);
  const score = async (window: string) => {
    const words = window.split(" ");
    const masked = words.map((_, i) => words.with(i, "[MASK]").join(" "));
    const found = await fill(masked, { top_k: 21 });
    return found.reduce(
      (sum, fills, i) => sum + Math.log(fills.find(({ token_str }) => token_str === words[i])!.score),
      0,
    );
  };
  const short = "this film is good";
  const long = "the cat sat on a mat ".repeat(7).trim();
  const words = long.split(" ");
  // [CLS] and [SEP] leave 38 of 40 tokens.
  const windows = [short, words.slice(0, 38).join(" "), words.slice(38).join(" ")];
  const nats = (await Promise.all(windows.map(score))).reduce((a, b) => a + b);
  const path = file("masked.jsonl", [short, long].map((text) => JSON.stringify({ text })).join("\n"));
  const { values } = (await evaluatePerplexity(loaded, "bert", { data: [path] })) as {
    values: Record<string, number>;
  };
  expect(values).toMatchObject({ documents: 2, tokens: 46, words: 46 });
  expect(Math.log(values.pseudo_perplexity)).toBeCloseTo(-nats / 46, 5);
  expect(Math.log(values.pseudo_word_perplexity)).toBeCloseTo(-nats / 46, 5);
  expect(values.pseudo_bits_per_byte).toBeCloseTo(-nats / values.bytes / Math.LN2, 5);
  const run = (model: typeof loaded.model, flags: object) =>
    evaluatePerplexity({ ...loaded, model }, "m", { data: [path], ...flags });
  await expect(run(loaded.model, { stride: 4 })).rejects.toThrow("--stride is for models that write");
  await expect(run(loaded.model, { context: 2 })).rejects.toThrow("--context leaves no room");
  await expect(run(randomBert("ForSequenceClassification", labels), {})).rejects.toThrow(
    "m is a BertForSequenceClassification, which predicts no tokens",
  );
});
