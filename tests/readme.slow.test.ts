import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { openDevice } from "../kernels/index.ts";
import { storyChat } from "../train/data/index.ts";
import { labels, randomBert, wordPieces } from "./support/word_pieces.ts";

/**
 * Every command of the README is run, long ones at toy length: the table below says how. A command that is not in the
 * table fails the test, so that none can be written and not run.
 */
const root = new URL("..", import.meta.url).pathname;
const readme = readFileSync(join(root, "README.md"), "utf8");
const out = mkdtempSync(join(tmpdir(), "kiln-readme-"));
const demo = join(out, "demo");
const gguf = join(out, "demo.gguf");
const chats = join(out, "chats.jsonl");

/** Command lines of the `sh` blocks in order, comments cut off. */
const commands = [...readme.matchAll(/```sh\n([\s\S]*?)```/g)]
  .flatMap(([, block]) => block!.split("\n"))
  .map((line) => line.replace(/\s+#.*$/, "").trim())
  .filter(Boolean);

const toy = ["--steps", "3", "--batch-size", "2", "--sequence-length", "32", "--vocab-size", "300"].concat(
  ["train.warmup_steps=1", "data.corpus.stories=40", "sample.max_tokens=4", "eval.tokens=64"].flatMap((s) => [
    "--set",
    s,
  ]),
);

interface Recipe {
  /** The command begins so. */
  starts: string;
  /** Arguments added to it. */
  extra?: string[];
  /** The command instead. */
  instead?: string[];
  /** What it reads from standard input. */
  says?: string;
  /** What it must print, on either stream. */
  prints: RegExp;
  /** Ended by Ctrl-C once it has printed that. */
  endless?: boolean;
}

const recipes: Recipe[] = [
  {
    starts: "npm start",
    extra: ["--", "--smoke", "--out", demo],
    // The adapter's line comes once.
    prints:
      /(?<!GPU: [\s\S]*)GPU: (?![\s\S]*GPU: )[\s\S]*before training[\s\S]*loss curve: [\s\S]*Serving demo at[\s\S]*curl http[\s\S]*new OpenAI[\s\S]*The server answers/,
  },
  // The tests inside the tests: one quick file stands for all.
  { starts: "npm test", extra: ["--", "tests/schedules.test.ts"], prints: /\n\d+ passed, 0 failed\n$/ },
  { starts: "npx kiln doctor", prints: /correctness[\s\S]*all well/ },
  {
    starts: "npx kiln train pretrain --out runs/stories",
    extra: ["--out", join(out, "stories"), ...toy],
    prints: /validation loss[\s\S]*model: /,
  },
  {
    starts: "npx kiln train pretrain docs/configs/tinyllm.yaml --data ../shared/data/text/",
    extra: ["--out", join(out, "tinystories"), ...toy],
    prints: existsSync(join(root, "../shared/data/text"))
      ? /validation loss[\s\S]*model: /
      : /corpus .*tinystories.* does not exist/,
  },
  { starts: "npx kiln settings", prints: /train\.learning_rate\s+0\.001/ },
  {
    starts: "npx kiln sample runs/demo/model",
    instead: ["npx", "kiln", "sample", join(demo, "model"), "--max-tokens", "5"],
    prints: /Once upon a time/,
  },
  {
    starts: "npx kiln serve runs/demo/model",
    instead: ["npx", "kiln", "serve", join(demo, "model"), "--port", "0"],
    prints: /Serving demo at http/,
    endless: true,
  },
  {
    starts: "npx kiln stories --chats",
    instead: ["npx", "kiln", "stories", "--chats", "--count", "2"],
    prints: /^(\{"messages":.*\n){2}$/,
  },
  {
    starts: "npx kiln train sft runs/demo/model",
    instead: [
      "npx",
      "kiln",
      "train",
      "sft",
      join(demo, "model"),
      "--data",
      chats,
      "--out",
      join(out, "chat"),
    ].concat([
      "--steps",
      "2",
      "--batch-size",
      "2",
      "--sequence-length",
      "256",
      "--set",
      "sample.max_tokens=4",
    ]),
    prints: /gets ChatML[\s\S]*model: /,
  },
  {
    starts: "npx kiln chat runs/chat/model",
    instead: ["npx", "kiln", "chat", join(out, "chat", "model"), "--max-tokens", "5"],
    says: "Tell me a story.\n",
    prints: /\S/,
  },
  {
    starts: "npx kiln data build",
    instead: ["npx", "kiln", "data", "build", "docs/configs/conversations.yaml", chats].concat([
      "--out",
      join(out, "data"),
    ]),
    prints: /read +\d+\n[\s\S]*kept +\d+\ntrain\.jsonl/,
  },
  {
    starts: "npx kiln model add storyteller runs/chat",
    instead: ["npx", "kiln", "model", "add", "storyteller", join(out, "chat")],
    prints: /storyteller@1: base, text-generation[\s\S]*\nstoryteller@1\n/,
  },
  { starts: "npx kiln model alias storyteller prod 1", prints: /storyteller@prod stands for storyteller@1/ },
  { starts: "npx kiln sample storyteller --max-tokens 20", prints: /Once upon a time/ },
  { starts: "npx kiln model list", prints: /storyteller@1 +prod +base/ },
  {
    starts: "npx kiln export runs/demo/model",
    instead: ["npx", "kiln", "export", join(demo, "model"), "--to", "gguf", "--dtype", "q8_0", "--out", gguf],
    prints: /demo\.gguf/,
  },
  {
    starts: "npx kiln sample demo.gguf",
    instead: ["npx", "kiln", "sample", gguf, "--max-tokens", "5"],
    prints: /Once upon a time/,
  },
  {
    starts: "npx kiln classify path/to/classifier",
    instead: ["npx", "kiln", "classify", join(out, "classifier"), "a fine film", "a dull one"],
    prints: /"label":.*\n.*"label":/,
  },
  {
    starts: "npx kiln fill-mask path/to/bert",
    instead: ["npx", "kiln", "fill-mask", join(out, "bert"), "the [MASK] sat on the mat", "--top-k", "3"],
    prints: /"fills":\[/,
  },
  {
    starts: "npx kiln embed path/to/encoder",
    instead: ["npx", "kiln", "embed", join(out, "bert"), "--file", join(out, "sentences.txt")],
    prints: /"embedding":\[.*\n.*"embedding":\[/,
  },
  {
    starts: "npx kiln verify tests/fixtures/golden",
    extra: ["--filter", "softmax"],
    prints: /\n[1-9]\d* passed, 0 failed, \d+ skipped\n/,
  },
  {
    starts: "npx kiln profile train",
    instead: ["npx", "kiln", "profile", "train", "--model", join(demo, "model")],
    prints: /matmul/,
  },
  { starts: "npm run bench", extra: ["--", "--quick", "--filter", "add"], prints: /software figures|GB\/s/ },
];

function execute(recipe: Recipe, command: string): Promise<{ text: string; code: number | null }> {
  const [program, ...args] = recipe.instead ?? [
    ...command.match(/"[^"]*"|\S+/g)!.map((a) => a.replaceAll('"', "")),
    ...(recipe.extra ?? []),
  ];
  const child: ChildProcess = spawn(program!, args, {
    cwd: root,
    env: { ...process.env, KILN_REGISTRY: join(out, "registry") },
    stdio: ["pipe", "pipe", "pipe"],
    detached: true,
  });
  child.stdin!.end(recipe.says ?? "");
  let text = "";
  const hear = (data: Buffer) => {
    text += data;
    // npx and npm pass no signal on: the whole group gets it, as from a terminal.
    if (recipe.endless && recipe.prints.test(text)) process.kill(-child.pid!, "SIGINT");
  };
  child.stdout!.on("data", hear);
  child.stderr!.on("data", hear);
  return new Promise((resolve) => child.on("close", (code) => resolve({ text, code })));
}

// What the README calls path/to/…
beforeAll(async () => {
  await openDevice();
  const tokenizer = wordPieces();
  await randomBert("ForSequenceClassification", labels).savePretrained(join(out, "classifier"), tokenizer);
  await randomBert("ForMaskedLM").savePretrained(join(out, "bert"), tokenizer);
  writeFileSync(join(out, "sentences.txt"), "One cat.\nTwo cats.\n");
  writeFileSync(chats, Array.from({ length: 40 }, (_, i) => JSON.stringify(storyChat(0, i))).join("\n"));
});

const hasNpm = spawnSync("npm", ["--version"]).status === 0;

describe("README", () => {
  it("opens with what kiln is, its two commands and what runs where", () => {
    expect(readme).toMatch(/^# kiln\n/);
    expect(commands.slice(0, 2)).toEqual(["npm start", "npm test"]);
    expect(readme).toMatch(/## What runs where\n\n\|/);
  });

  it("lists no command that is not run here, and none is left over", () => {
    const recipeOf = commands.map(
      (command) => recipes.find(({ starts }) => command.startsWith(starts))?.starts ?? command,
    );
    expect(recipeOf).toEqual(recipes.map(({ starts }) => starts));
  });

  commands.forEach((command) => {
    const recipe = recipes.find(({ starts }) => command.startsWith(starts));
    if (!recipe) return;
    it(`${command}`, async (context) => {
      if (!hasNpm) context.skip("npm is not installed");
      const { text, code } = await execute(recipe, command);
      expect(text).toMatch(recipe.prints);
      const missing = command.includes("../shared") && !existsSync(join(root, "../shared/data/text"));
      expect(code === 0 || missing || (recipe.endless ?? false), `exit ${code}: ${text}`).toBe(true);
    });
  });
});
