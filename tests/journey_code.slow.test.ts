import { execFile, spawn, spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openDevice } from "../kernels/index.ts";
import { createModel, saveModel, tinyllmConfig } from "../models/index.ts";
import { Tokenizer, trainBpe } from "../tokenizer/index.ts";

/** Journey J4 of the design: a code chatbot, from its conversations to programs that run, on a terminal as people have it. */

const kiln = path.resolve(import.meta.dirname, "../bin/kiln.mjs");
const folder = mkdtempSync(path.join(tmpdir(), "kiln-j4-"));
const env = { ...process.env, KILN_HISTORY: path.join(folder, "history"), TERM: "xterm" };
const hasTerminal = spawnSync("script", ["--version"]).status === 0;
afterAll(() => rmSync(folder, { recursive: true }));

const answers = {
  "six by seven": "```js\nconsole.log(6 * 7)\n```",
  "for ever": "```js\nfor (;;);\n```",
  "in python": "```python\ndef f(n):\n    return n + 1\nprint(f(1))\n```",
};

/** A terminal with `kiln chat` in it. */
function chat() {
  const command = `'${process.execPath}' '${kiln}' chat runs/code/model --temperature 0 --max-tokens 80`;
  const child = spawn("script", ["-qfec", command, "/dev/null"], { cwd: folder, env });
  const exited = new Promise<number | null>((resolve) => child.once("exit", resolve));
  let all = "";
  let read = 0;
  for (const stream of [child.stdout, child.stderr])
    stream.on("data", (piece) => {
      all += piece;
    });
  /** Waits for what comes after all that was seen before. */
  const see = async (text: string) => {
    await expect.poll(() => all.slice(read), { timeout: 60_000, interval: 10 }).toContain(text);
    const found = all.indexOf(text, read);
    const between = all.slice(read, found);
    read = found + text.length;
    return between;
  };
  const type = (text: string) => void child.stdin.write(text);
  const ask = async (question: string) => {
    type(`${question}\r`);
    await see("AI: ");
    return see("```\x1b[0m\r\n");
  };
  return { see, type, ask, exited, end: () => child.kill("SIGKILL") };
}

describe.skipIf(!hasTerminal)("J4: a code chatbot (skipped: no `script`, which makes a terminal)", () => {
  let terminal: ReturnType<typeof chat>;

  beforeAll(async () => {
    await openDevice();
    const corpus = Object.entries(answers).flat().join("\n").repeat(20);
    const end = "<|endoftext|>";
    const tokenizer = new Tokenizer(trainBpe([corpus], { vocab_size: 330, special_tokens: [end] }), {
      tokenizer_config: { bos_token: end, eos_token: end },
    });
    const sizes = { hidden_size: 32, intermediate_size: 64, num_hidden_layers: 1, num_attention_heads: 2 };
    const shape = {
      vocab_size: tokenizer.vocabSize,
      eos_token_id: tokenizer.eosId,
      max_position_embeddings: 256,
    };
    await saveModel(
      path.join(folder, "base"),
      createModel(tinyllmConfig({ ...sizes, ...shape })).init(1),
      tokenizer,
    );
    const rows = Object.entries(answers).map(([prompt, completion]) =>
      JSON.stringify({ prompt, completion }),
    );
    writeFileSync(path.join(folder, "chats.jsonl"), rows.join("\n"));
    const settings = [
      "--steps",
      "120",
      "--batch-size",
      "1",
      "--sequence-length",
      "128",
      "--learning-rate",
      "1e-2",
    ];
    const files = ["--data", "chats.jsonl", "--out", "runs/code", "--set", "data.validation_fraction=0"];
    await promisify(execFile)(process.execPath, [kiln, "train", "sft", "base", ...files, ...settings], {
      cwd: folder,
      env,
    });
    terminal = chat();
  }, 200_000);
  afterAll(() => terminal?.end());

  it("what it writes is in colours, and runs with its output, exit and time", async () => {
    const { ask, type, see } = terminal;
    await see("You: ");
    expect(await ask("six by seven")).toContain("\x1b[33m6\x1b[0m * ");
    type("/run\r");
    await see("42\r\n");
    await see("(exit 0, ");
    expect(await see(")\r\n")).toMatch(/^\d\.\d\d s; by (Node|QuickJS) /);
  }, 90_000);

  it("Python keeps its indentation", async () => {
    const { ask, type, see } = terminal;
    type("/clear\r");
    await see("a new conversation");
    expect(await ask("in python")).toContain("    \x1b[0m\x1b[35mreturn");
    type("/run unsafe\r");
    expect(await see(")\r\n")).toMatch(/\r\n2\r\n\(exit 0, |there is no python3/);
  }, 90_000);

  it("an endless loop ends in 3 s with its reason", async () => {
    const { ask, type, see } = terminal;
    type("/clear\r");
    await see("a new conversation");
    await ask("for ever");
    type("/run\r");
    await see("(time limit, ");
    expect(Number.parseFloat(await see(" s:"))).toBeLessThan(4);
  }, 90_000);

  it("explains, rates, takes back and answers again, saves and loads", async () => {
    const { type, see } = terminal;
    type("/explain\r");
    await see("entropy");
    type("/explain --html why.html\r");
    await see("wrote why.html");
    const page = readFileSync(path.join(folder, "why.html"), "utf8");
    expect(page).not.toMatch(/(src|href)="?https?:/);
    type("/rate down no\r");
    await see("rated down");
    type("/save talk.jsonl\r");
    await see("saved 2 messages");
    expect(JSON.parse(readFileSync(path.join(folder, "talk.jsonl"), "utf8"))).toMatchObject({
      messages: [{ content: "for ever" }, { content: answers["for ever"] }],
    });
    type("/retry\r");
    await see("AI: ");
    type("/undo\r");
    await see("taken back: for ever");
    type("/system be brief\r");
    await see("system: be brief");
    type("/load talk.jsonl\r");
    await see("loaded 2 messages");
    type("/context\r");
    await see("of 256 tokens");
    type("/model\r");
    await see("runs/code/model, a context of 256 tokens");
    type("/help\r");
    await see("/rate up|down");
  }, 90_000);

  it("Ctrl-C twice leaves with 130, and what was typed is there the next time", async () => {
    terminal.type("\x03");
    await terminal.see("(Ctrl-C once more leaves)");
    terminal.type("\x03");
    expect(await terminal.exited).toBe(130);
    expect(existsSync(env.KILN_HISTORY)).toBe(true);
    expect(readFileSync(env.KILN_HISTORY, "utf8")).toContain("six by seven\n/run\n");
  }, 30_000);
});
