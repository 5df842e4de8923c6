import { execFile } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";

/** `kiln route fit` with models that are trained here: a pair of classifiers, and two that write. */
const root = mkdtempSync(join(tmpdir(), "kiln-route-fit-"));
afterAll(() => rmSync(root, { recursive: true }));

const adjectives = { good: ["fine", "lovely", "bright", "sweet"], bad: ["dull", "sour", "bleak", "grim"] };
const nouns = ["film", "meal", "day", "song", "walk", "book"];
/** Texts of two labels; of every eighth the label is the other one's. */
const rows = Array.from({ length: 240 }, (_, i) => {
  const label = (["good", "bad"] as const)[i % 2]!;
  const word = adjectives[label][(i >> 1) % 4]!;
  const noisy = i % 8 === 5 ? (label === "good" ? "bad" : "good") : label;
  return { text: `a ${word} ${nouns[(i >> 3) % 6]}`, label: noisy };
});

/** Several trainings and loads of models, each a process of its own, on a machine that others use too. */
const LONG_MS = 400_000;

/** Runs a command of kiln. */
function kiln(...args: string[]) {
  return new Promise<{ code: number; stdout: string; stderr: string }>((resolve) => {
    execFile(process.execPath, ["bin/kiln.mjs", ...args], { maxBuffer: 2 ** 24 }, (error, stdout, stderr) =>
      resolve({ code: typeof error?.code === "number" ? error.code : 0, stdout, stderr }),
    );
  });
}

const small = [
  ...["model.hidden_size=16", "model.num_hidden_layers=1", "model.num_attention_heads=2", "model.dropout=0"],
  ...["tokenizer.vocab_size=300", "train.warmup_steps=0", "train.batch_size=4", "train.sequence_length=32"],
];

/** Trains a model. @returns its folder. */
async function train(kind: string, name: string, data: string, ...settings: string[]): Promise<string> {
  const out = join(root, name);
  const sets = [...small, ...settings].flatMap((setting) => ["--set", setting]);
  const { code, stderr } = await kiln("train", kind, "--data", data, "--out", out, ...sets);
  expect([code, code === 0 ? "" : stderr]).toEqual([0, ""]);
  return join(out, "model");
}

/** Writes JSON lines. @returns their file. */
function lines(name: string, all: readonly object[]): string {
  const path = join(root, name);
  writeFileSync(path, all.map((row) => `${JSON.stringify(row)}\n`).join(""));
  return path;
}

const file = join(root, "providers.yaml");
beforeAll(() =>
  writeFileSync(
    file,
    `classifiers:
  soft: { members: [a, b], vote: soft }
  chain: { members: [a, b], vote: chain }
routes:
  auto: { chain: [small, large] }
`,
  ),
);

const routeFit = (name: string, models: string[], data: string, ...more: string[]) =>
  kiln("route", "fit", name, ...models, "--providers", file, "--data", data, ...more);

describe("a pair of classifiers", () => {
  let models: string[];
  let data: string;
  beforeAll(async () => {
    const table = (name: string, some: readonly (typeof rows)[number][]) => {
      const path = join(root, name);
      writeFileSync(path, ["text,label", ...some.map(({ text, label }) => `${text},${label}`)].join("\n"));
      return path;
    };
    const settings = ["train.steps=25", "train.learning_rate=0.02", "train.schedule=constant"];
    const [a, b] = [table("a.csv", rows.slice(0, 80)), table("b.csv", rows.slice(80, 120))];
    models = [
      `a=${await train("classify", "a", a, ...settings)}`,
      `b=${await train("classify", "b", b, ...settings, "train.seed=2")}`,
    ];
    data = lines("labelled.jsonl", rows.slice(120));
  }, LONG_MS);

  it("votes: temperatures, macro F1 of the vote against each, and what McNemar says", async () => {
    const { stdout, code } = await routeFit("soft", models, data, "--json");
    expect(code).toBe(0);
    const { vote, fitted } = JSON.parse(stdout);
    expect(vote.texts).toEqual({ fitted: 60, held_out: 60 });
    const best = Math.max(...vote.members.map((one: { macro_f1: number }) => one.macro_f1));
    expect(best).toBeGreaterThan(0.8);
    // The gate: no worse than the best of them.
    expect([vote.passes, vote.macro_f1 >= best]).toEqual([true, true]);
    expect(vote.mcnemar.p_value).toBeGreaterThan(0);
    // The labels are wrong in one of eight, which is 0.38 for who knows it; a coin has 0.69.
    for (const { temperature, nll } of fitted) {
      expect(temperature).not.toBeCloseTo(1, 3);
      expect(nll).toBeLessThan(0.6);
    }
    const table = await routeFit("soft", models, data);
    expect(table.stdout).toMatch(
      /^soft: a, b\n60 texts fitted, 60 held out; macro F1 of those\na +\d\.\d+ +T \d/,
    );
    expect(table.stdout).toMatch(
      /McNemar p \d\.\d+\nat least as good as the best member: yes\n\nfitted:\n( {2}- \{.*\}\n){2}$/,
    );
  });

  it("asked one after the other: a threshold, the curve and the calibration error", async () => {
    const { threshold } = JSON.parse((await routeFit("chain", models, data, "--json")).stdout);
    expect(threshold.held_out.escalated).toBeLessThanOrEqual(1);
    expect(threshold.curve[0]).toMatchObject({
      tau: 0,
      escalated: 0,
      quality: threshold.always_first.quality,
    });
    expect(threshold.ece).toBeLessThan(0.25);
    expect(
      threshold.curve.find(({ tau }: { tau: number }) => tau === threshold.tau).quality,
    ).toBeGreaterThanOrEqual(0.99 * threshold.always_last.quality);
  });

  it("bad data is refused in a line", async () => {
    const wrong = lines(
      "wrong.jsonl",
      rows.slice(0, 20).map((row) => ({ ...row, label: "ugly" })),
    );
    expect((await routeFit("soft", models, wrong)).stderr).toContain(
      "row 1 of the data has the label ugly: the classifiers tell bad, good",
    );
    expect((await routeFit("soft", models, lines("few.jsonl", rows.slice(0, 3)))).stderr).toContain(
      "has 3 rows: a fit needs 20",
    );
    expect((await routeFit("sfot", models, data)).stderr).toContain(
      "has no route and no classifiers sfot: it has auto, soft, chain",
    );
    expect((await routeFit("soft", [models[0]!], data)).stderr).toContain(
      "classifiers.soft names b, which is no classifier of this server",
    );
  });
});

describe("two models that write", () => {
  it(
    "the curve from the small one alone to the large one alone, and a threshold that holds out of sample",
    async () => {
      const facts = [
        ["cat", "milk"],
        ["dog", "bones"],
        ["bird", "seeds"],
        ["horse", "hay"],
        ["bear", "honey"],
        ["fish", "worms"],
      ];
      const sentences = facts.map(([who, what]) => `the ${who} eats ${what}.`);
      const corpus = join(root, "facts.txt");
      writeFileSync(
        corpus,
        Array.from({ length: 400 }, (_, i) => sentences[(i * 5 + (i >> 3)) % 6]).join("\n"),
      );
      const settings = ["train.learning_rate=0.01", "train.schedule=constant"];
      const models = [
        `small=${await train("pretrain", "small", corpus, ...settings, "train.steps=30")}`,
        `large=${await train("pretrain", "large", corpus, ...settings, "train.steps=150", "model.hidden_size=32")}`,
      ];
      const questions = Array.from({ length: 48 }, (_, i) => facts[i % 6]!).map(([who, what]) => ({
        ...{ prompt: `the ${who} eats`, answer: ` ${what}.` },
      }));
      const { stdout, code } = await routeFit(
        "auto",
        models,
        lines("questions.jsonl", questions),
        "--max-tokens",
        "6",
        "--json",
      );
      expect(code).toBe(0);
      const { threshold } = JSON.parse(stdout);
      expect(threshold.always_last.quality).toBeGreaterThan(threshold.always_first.quality);
      expect(threshold.held_out.within).toBe(true);
      expect(threshold.tau).toBeGreaterThan(0);
      const table = await routeFit("auto", models, join(root, "questions.jsonl"), "--max-tokens", "6");
      expect(table.stdout).toMatch(/always small +0\.0% +0\.\d{4} +0\.00\nalways large +100\.0% /);
      expect(table.stdout).toMatch(
        /within 1% of always large \(0\.\d+\): yes\ncalibration error of small \(10 bins\): 0\.\d+\ntau: 0\.\d+\n$/,
      );
    },
    LONG_MS,
  );
});
