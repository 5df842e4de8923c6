import { execFile, spawn } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, describe, expect, it } from "vitest";
import { readMetrics } from "../train/report/metrics_log.ts";

const root = mkdtempSync(join(tmpdir(), "kiln-sweep-"));
afterAll(() => rmSync(root, { recursive: true }));
const kiln = [process.execPath, join(import.meta.dirname, "../bin/kiln.mjs")] as const;
const run = async (...args: string[]) => {
  const { stdout } = await promisify(execFile)(kiln[0], [kiln[1], "sweep", ...args, "--json"]);
  return JSON.parse(stdout) as {
    trials: { name: string; steps: number; value: number; settings: object }[];
    picture: string;
  };
};

function sweepFile(name: string, asha: string): string[] {
  const path = join(root, `${name}.yaml`);
  writeFileSync(
    path,
    `recipe: pretrain
settings:
  data.corpus.stories: 40
  data.validation_fraction: 0.4
  tokenizer.vocab_size: 300
  model.hidden_size: 32
  model.num_hidden_layers: 1
  model.num_attention_heads: 2
  train.sequence_length: 32
  train.batch_size: 2
  train.warmup_steps: 1
  train.schedule: constant
  train.steps: 40
  sample.max_tokens: 1
space:
  train.learning_rate: { min: 1e-6, max: 1e-2, scale: log }
${asha}`,
  );
  return [path, "--out", join(root, name)];
}

describe("kiln sweep", () => {
  it("beats the worst rates by the best, gives losing trials fewer updates, and is the same when repeated", async () => {
    const args = [...sweepFile("halving", "asha: { min_steps: 5, eta: 2 }"), "--trials", "5"];
    const first = await run(...args);
    expect(first.trials).toHaveLength(5);
    const [best, ...others] = first.trials;
    expect(best.steps).toBe(40);
    expect(others.some(({ steps }) => steps < 40)).toBe(true);
    for (const { steps, value } of others) if (steps === 40) expect(value).toBeGreaterThanOrEqual(best.value);
    expect(existsSync(first.picture)).toBe(true);
    expect(existsSync(join(root, "halving", best.name, "model/model.safetensors"))).toBe(true);
    // Repeated, it finds everything done; with more trials it goes on.
    expect((await run(...args)).trials).toEqual(first.trials);
    const more = await run(...args.slice(0, -1), "6");
    expect(more.trials.find(({ name }) => name === best.name)!.settings).toEqual(best.settings);
    expect(more.trials).toHaveLength(6);
  }, 300_000); // 16 processes or so, each with a device of its own

  it("stopped by a signal, goes on to the result of a sweep that was not", async () => {
    const whole = await run(...sweepFile("whole", ""), "--trials", "3");
    const args = [...sweepFile("parts", ""), "--trials", "3"];
    const child = spawn(kiln[0], [kiln[1], "sweep", ...args], { stdio: ["ignore", "ignore", "pipe"] });
    const log = join(root, "parts/trial-001/log.jsonl");
    while (readMetrics(log).length < 5) await new Promise((resolve) => setTimeout(resolve, 50));
    child.kill("SIGINT");
    expect(await new Promise((resolve) => child.on("close", resolve))).toBe(130);
    const { trials } = await run(...args);
    const essence = ({ name, steps, value }: (typeof trials)[number]) => ({ name, steps, value });
    expect(trials.map(essence)).toEqual(whole.trials.map(essence));
    const weights = (sweep: string) =>
      readFileSync(join(root, sweep, "trial-001/model/model.safetensors")).toString("base64");
    expect(weights("parts")).toBe(weights("whole"));
  }, 300_000);

  it("ends with the trial's own line where a setting cannot be, before anything is trained", async () => {
    const [path, ...out] = sweepFile("wrong", "");
    writeFileSync(path, readFileSync(path, "utf8").replace("train.learning_rate", "train.learning_rat"));
    await expect(run(path, ...out)).rejects.toThrow("did you mean train.learning_rate?");
    expect(existsSync(join(root, "wrong"))).toBe(false);
  });
});
