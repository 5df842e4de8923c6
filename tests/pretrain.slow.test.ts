import { type ChildProcess, spawn } from "node:child_process";
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { Tokenizer, trainBpe } from "../tokenizer/index.ts";
import { readMetrics } from "../train/report/metrics_log.ts";

/** The command line as a user has it: whole runs in processes of their own, stopped in every way. */
const kiln = new URL("../bin/kiln.mjs", import.meta.url).pathname;

function start(args: string[]): {
  child: ChildProcess;
  done: Promise<{ code: number | null; text: string }>;
} {
  const child = spawn(process.execPath, [kiln, ...args], { stdio: ["ignore", "pipe", "pipe"] });
  return { child, done: finished(child) };
}

function finished(child: ChildProcess): Promise<{ code: number | null; text: string }> {
  let text = "";
  child.stdout!.on("data", (data) => (text += data));
  child.stderr!.on("data", (data) => (text += data));
  return new Promise((resolve) => child.on("close", (code) => resolve({ code, text })));
}

const run = (...args: string[]) => start(args).done;

/** A run small enough for a few seconds, with a checkpoint every fourth of its sixteen steps. */
function toyRun(out: string, ...extra: string[]): string[] {
  const settings = {
    "data.corpus.stories": 60,
    "model.hidden_size": 32,
    "model.num_hidden_layers": 1,
    "model.num_attention_heads": 2,
    "train.steps": 16,
    "train.gradient_accumulation_steps": 2,
    "train.warmup_steps": 3,
    "eval.tokens": 128,
    "eval.every": 5,
    "sample.max_tokens": 4,
    "sample.every": 0,
    "checkpoint.every": 4,
  };
  const set = Object.entries(settings).flatMap(([name, value]) => ["--set", `${name}=${value}`]);
  const flags = ["--batch-size", "2", "--sequence-length", "32", "--vocab-size", "300"];
  return ["train", "pretrain", "--out", out, ...flags, ...set, ...extra];
}

const folder = () => mkdtempSync(join(tmpdir(), "kiln-pretrain-"));

/** Waits for a checkpoint folder of at least this step. */
async function checkpointOf(out: string, step: number): Promise<void> {
  for (;;) {
    const path = join(out, "checkpoints");
    const steps = existsSync(path)
      ? readdirSync(path).map((name) => Number(/^step-(\d+)$/.exec(name)?.[1] ?? 0))
      : [];
    if (Math.max(0, ...steps) >= step) return;
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}

/** What a finished run leaves that must be equal bit for bit. */
function outcome(out: string) {
  const numbers = readMetrics(join(out, "log.jsonl"));
  return { weights: readFileSync(join(out, "model/model.safetensors")).toString("base64"), numbers };
}

describe("kiln train pretrain", () => {
  it("killed at any moment and resumed, or stopped by Ctrl-C and resumed, ends as if nothing had happened", async () => {
    const [whole, killed, stopped] = [folder(), folder(), folder()];
    const first = await run(...toyRun(join(whole, "run")));
    expect(first.code, first.text).toBe(0);

    const doomed = start(toyRun(join(killed, "run")));
    await checkpointOf(join(killed, "run"), 4);
    doomed.child.kill("SIGKILL");
    await doomed.done;
    expect(existsSync(join(killed, "run/model"))).toBe(false);
    const resumed = await run(...toyRun(join(killed, "run"), "--resume"));
    expect(resumed.code, resumed.text).toBe(0);
    expect(resumed.text).toMatch(/resuming .* at step (4|8|12) of 16/);

    const polite = start(toyRun(join(stopped, "run")));
    await checkpointOf(join(stopped, "run"), 4);
    polite.child.kill("SIGINT");
    const interrupted = await polite.done;
    expect(interrupted.code, interrupted.text).toBe(130);
    expect(interrupted.text).toMatch(/stopped at step \d+ of 16; the checkpoint is saved/);
    const again = await run(...toyRun(join(stopped, "run"), "--resume"));
    expect(again.code, again.text).toBe(0);

    const expected = outcome(join(whole, "run"));
    expect(outcome(join(killed, "run"))).toEqual(expected);
    expect(outcome(join(stopped, "run"))).toEqual(expected);
    for (const name of [
      "config.json",
      "loss.svg",
      "samples.txt",
      "model/config.json",
      "model/tokenizer.json",
      "model/tokenizer_config.json",
      "model/generation_config.json",
    ]) {
      expect(existsSync(join(whole, "run", name)), name).toBe(true);
    }
    expect(readdirSync(join(whole, "run")).some((name) => name.startsWith("events.out.tfevents."))).toBe(
      true,
    );

    const sampled = await run("sample", join(whole, "run/model"), "--max-tokens", "5", "--temperature", "0");
    expect(sampled.code, sampled.text).toBe(0);
    expect(sampled.text).toContain("Once upon a time");
  });

  it("keeps a second process out of its folder, resuming or not", async () => {
    const out = join(folder(), "run");
    const first = start(toyRun(out, "--steps", "100000"));
    await checkpointOf(out, 4);
    for (const flags of [[], ["--resume"]]) {
      const { code, text } = await run(...toyRun(out, ...flags));
      expect(text).toMatch(
        /another process \(\d+\) is writing this run folder: wait for it, stop it, or give/,
      );
      expect(code).toBe(75);
    }
    first.child.kill("SIGINT");
    const { code, text } = await first.done;
    expect(code, text).toBe(130);
    expect(existsSync(join(out, ".lock"))).toBe(false);
  });

  it("says what is wrong and how to mend it, in one line, and does not start", async () => {
    const out = folder();
    const binary = join(out, "noise.txt");
    writeFileSync(binary, Buffer.from([0, 1, 2, 255, 254, 0, 0, 9]));
    const empty = join(out, "empty.txt");
    writeFileSync(empty, " \n");
    const broken = join(out, "broken.yaml");
    writeFileSync(broken, "train:\n  learning_rat: 0.1\n");
    const llama = {
      model_type: "llama",
      hidden_size: 4096,
      intermediate_size: 64,
      num_hidden_layers: 1,
      num_attention_heads: 32,
    };
    const huge = join(out, "huge");
    mkdirSync(huge);
    writeFileSync(join(huge, "config.json"), JSON.stringify({ ...llama, vocab_size: 10_000_000 }));
    const cut = join(out, "cut");
    mkdirSync(cut);
    const golden = new URL("./fixtures/golden/models/llama/", import.meta.url).pathname;
    copyFileSync(join(golden, "config.json"), join(cut, "config.json"));
    writeFileSync(
      join(cut, "model.safetensors"),
      readFileSync(join(golden, "model.safetensors")).subarray(0, 9000),
    );
    new Tokenizer(trainBpe(["once upon a time"], { vocab_size: 270 })).save(cut);
    const cases: [string[], RegExp, number][] = [
      [["train", "pretrain", "--data", join(out, "none.txt")], /none\.txt does not exist/, 1],
      [["train", "pretrain", "--data", binary], /binary|not text|UTF-8/i, 1],
      [["train", "pretrain", "--data", empty], /empty|no document/i, 1],
      [["train", "pretrain", broken], /broken\.yaml:2: .*learning_rat.*learning_rate/, 1],
      [["train", "pretrain", "--set", "train.batch_size=-1"], /train\.batch_size/, 1],
      [["train", "pretrain", "--steps", "many"], /whole number/, 2],
      [["trian"], /Did you mean train/, 2],
      [["sample", join(out, "nowhere")], /nowhere does not exist/, 1],
      [["sample", huge], /too large for this adapter.*limits/, 1],
      [["sample", cut], /cut\/model\.safetensors.*(bytes|truncated|ends)/, 1],
    ];
    const answers = await Promise.all(
      cases.map(([args], i) =>
        run(...args, ...(args[1] === "pretrain" ? ["--out", join(out, `run-${i}`)] : [])),
      ),
    );
    cases.forEach(([args, message, code], i) => {
      const { text, code: actual } = answers[i];
      expect(text, args.join(" ")).toMatch(message);
      expect(actual, text).toBe(code);
      expect(text, "no stack trace without DEBUG=1").not.toMatch(/^\s+at .*:\d+:\d+/m);
    });
  });

  it("stops at numbers that are not finite, calls no checkpoint good that gave them, and its advice works as printed", async () => {
    const out = join(folder(), "a run");
    // The first update of the warm-up has rate 0. After the second, weights of 1e30 are finite, but gradients are not.
    const wild = ["train.max_grad_norm=0", "checkpoint.every=1", "train.warmup_steps=1"];
    const set = wild.flatMap((setting) => ["--set", setting]);
    const { code, text } = await run(...toyRun(out), ...set, "--learning-rate", "1e30");
    expect(code, text).toBe(1);
    expect(text).toMatch(/step [23]: .*NaN.*; the last good checkpoint is step-000001: go on from it/);
    expect(existsSync(join(out, "model"))).toBe(false);
    const advice = await printed(text);
    expect(advice.code, advice.text).toBe(0);
    expect(advice.text).toMatch(/changed from here on: train.learning_rate 1e\+30 -> 0.001/);
    expect(existsSync(join(out, "model"))).toBe(true);
  });

  it("that diverges before its first checkpoint says how to start again, which works as printed", async () => {
    const out = join(folder(), "run");
    const wild = ["train.max_grad_norm=0", "train.warmup_steps=1"].flatMap((setting) => ["--set", setting]);
    const { code, text } = await run(...toyRun(out), ...wild, "--learning-rate", "1e30");
    expect(code, text).toBe(1);
    expect(text).toMatch(/there is no good checkpoint yet: start again at a lower rate with npx kiln/);
    const advice = await printed(text);
    expect(advice.code, advice.text).toBe(0);
    expect(existsSync(join(out, "model"))).toBe(true);
  });
});

/** Runs the `npx kiln` command at the end of a message, as a shell would. */
function printed(text: string): Promise<{ code: number | null; text: string }> {
  const command = /npx (kiln train pretrain .*)$/m.exec(text)![1];
  const child = spawn("sh", ["-c", command.replace("kiln", `'${process.execPath}' '${kiln}'`)], {
    stdio: ["ignore", "pipe", "pipe"],
  });
  return finished(child);
}
