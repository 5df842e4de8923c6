import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { KilnError } from "../core/errors.ts";
import { loadModel } from "../models/formats/hf_directory.ts";
import { demo } from "../train/demo.ts";
import { loadPretrainConfig, type PretrainConfig } from "../train/recipes/pretrain.ts";
import { lossText } from "../train/report/run_log.ts";
import { saveCheckpoint, type TrainerState } from "../train/run_files.ts";
import { lockFile } from "../train/run_lock.ts";
import { parseOverrides } from "../train/settings/load.ts";
import { toyRuns } from "./support/train_toy.ts";

/** What a run measures and keeps, inside one process; tests/pretrain.slow.test.ts has whole processes. */
const { place, toy, pretrainWith, train, resume } = toyRuns();

describe("the validation loss", () => {
  it("of equal weights is equal to the bit whatever the batch size, and at the end that of the whole set", async () => {
    // The first update of a warm-up has rate 0: the weights stay those of the seed.
    const runs = [];
    for (const size of [1, 3, 8]) {
      runs.push(await train(`batch${size}`, `train.batch_size=${size}`, "eval.tokens=300"));
    }
    const measured = runs.map(({ records }) => records.filter((r) => "validation_loss" in r));
    expect(measured[0]).toHaveLength(2);
    expect(measured[1]).toEqual(measured[0]);
    expect(measured[2]).toEqual(measured[0]);
    const [budget, whole] = measured[0];
    expect(budget!.validation_tokens).toBeLessThanOrEqual(320);
    expect(budget!.validation_tokens).toBeGreaterThan(250);
    expect(whole!.validation_tokens).toBeGreaterThan(1000);
    expect(runs[0].validationLoss).toBe(whole!.validation_loss);
    expect(runs[0].validationTokens).toBe(whole!.validation_tokens);

    // A budget of more than the set is the set, once, and agrees but for the order of the sum.
    const all = await train("all", "eval.tokens=1000000");
    const records = all.records.filter((r) => "validation_loss" in r);
    expect(records).toHaveLength(1);
    expect(all.validationTokens).toBe(runs[0].validationTokens);
    expect(Math.abs(all.validationLoss! - runs[0].validationLoss!)).toBeLessThan(1e-6);
  });

  it("of the whole set can be stopped: the checkpoint is there, and a resumed run measures it", async () => {
    const first = await train("measured", "eval.tokens=300");
    const controller = new AbortController();
    const cut = [...toy, `out_dir=${place("stopped")}`, "eval.tokens=300", "sample.every=0"];
    // The signal comes when the run says that it begins with the whole set.
    const say = (line: string) => void (/measuring on all/.test(line) && controller.abort());
    await expect(pretrainWith(cut, { signal: controller.signal, say })).rejects.toMatchObject({
      message: expect.stringMatching(/stopped at step 1 of 1; the checkpoint is saved/),
      exitCode: 130,
    });
    expect(existsSync(join(place("stopped"), "model"))).toBe(false);
    const resumed = await resume("stopped");
    expect(resumed.validationLoss).toBe(first.validationLoss);
    expect(resumed.weights).toBe(first.weights);
  });

  it("is absent, not 0/0, where nothing is held out", async () => {
    const run = await train("none", "data.validation_fraction=0");
    expect(run.validationLoss).toBe(null);
    expect(run.validationTokens).toBe(null);
    expect(run.records.some((r) => "validation_loss" in r)).toBe(false);
  });
});

describe("a resumed run", () => {
  const schedule = ["train.schedule=constant", "checkpoint.every=2", "eval.every=2"];
  const outcome = ({ records, weights }: { records: unknown; weights: string }) => ({ records, weights });

  it("extended to a length is the run of that length, bit for bit, where the schedule knows no end", async () => {
    const whole = await train("whole", ...schedule, "train.steps=8");
    await train("short", ...schedule, "train.steps=4");
    const extended = await resume("short", "train.steps=8");
    expect(extended.text).toMatch(/resuming .*short at step 4 of 8/);
    expect(extended.text).toMatch(/changed from here on: train.steps 4 -> 8/);
    // The end of the short run measured everything, the whole run did not stop there: the rest is equal.
    const losses = (records: typeof whole.records) => records.filter((r) => "loss" in r);
    expect(losses(extended.records)).toEqual(losses(whole.records));
    expect(extended.weights).toBe(whole.weights);
    // What was changed is the run's from then on.
    expect((await resume("short")).text).toMatch(/already finished: 8 of 8 updates/);
  });

  it("of a finished run says so, gives the last numbers again and changes nothing", async () => {
    const first = await train("done", ...schedule, "train.steps=4", "eval.tokens=300", "sample.every=2");
    const samples = () => readFileSync(join(place("done"), "samples.txt"), "utf8");
    const written = samples();
    expect(written.match(/^=== step \d ===$/gm)).toEqual([0, 2, 4].map((step) => `=== step ${step} ===`));
    const again = await resume("done");
    expect(samples()).toBe(written);
    expect(again.text).toMatch(/done is already finished: 4 of 4 updates; to train on, give more --steps/);
    expect(again.trainLoss).toBe(first.trainLoss);
    expect(again.trainLoss).toBeGreaterThan(0);
    expect(again.validationLoss).toBe(first.validationLoss);
    expect(outcome(again)).toEqual(outcome(first));
    expect(lossText(again, 4)).toBe(lossText(first, 4));
    rmSync(join(place("done"), "log.jsonl"));
    expect(lossText(await resume("done"), 4)).toMatch(/^training loss unknown, validation loss \d/);
  });

  it("takes the changes that keep its state meaningful, says them, and schedules for them from there on", async () => {
    await train("changed", "train.steps=4", "checkpoint.every=2", "train.learning_rate=0.01");
    const run = await resume(
      "changed",
      "train.steps=8",
      "train.learning_rate=0.002",
      "train.batch_size=3",
      "train.max_grad_norm=0.5",
    );
    for (const change of [
      "train.steps 4 -> 8",
      "train.learning_rate 0.01 -> 0.002",
      "train.batch_size 2 -> 3",
    ])
      expect(run.text).toContain(change);
    // Cosine from 1 to a tenth over the seven updates after the warm-up, at the new rate.
    const rate = (step: number) => 0.002 * (0.1 + 0.9 * 0.5 * (1 + Math.cos((Math.PI * (step - 2)) / 7)));
    const rates = run.records.filter((r) => r.step > 4 && "loss" in r).map((r) => r.learning_rate as number);
    for (const [i, found] of rates.entries()) expect(found).toBeCloseTo(rate(i + 5), 12);
    expect(rates).toHaveLength(4);
  });

  it("refuses by name what cannot change, and fewer steps than are done", async () => {
    await train("fixed", "train.steps=4", "checkpoint.every=2");
    await expect(resume("fixed", "train.seed=3", "train.learning_rate=1")).rejects.toThrow(
      /these cannot change: train.seed 0 -> 3; leave them out/,
    );
    await expect(resume("fixed", "data.corpus.seed=3")).rejects.toThrow(/cannot change: data.content/);
    await expect(resume("fixed", "train.steps=3")).rejects.toThrow(
      /has 4 updates already: --steps 3 is fewer/,
    );
    await expect(resume("fixed", "resume=step-000003")).rejects.toThrow(
      /no checkpoint step-000003; it has step-000002, step-000004/,
    );
    await expect(train("fixed")).rejects.toThrow(/holds a run already; add --resume/);
    await expect(train("nothing", "resume=true")).rejects.toThrow(/has no checkpoint to resume from/);
  });

  it("takes no silent change from a config file: it agrees, or the change is named", async () => {
    await train("filed", "train.steps=4", "train.learning_rate=0.01");
    const file = place("filed.yaml");
    const load = (text: string, ...settings: string[]) => {
      writeFileSync(file, text);
      return loadPretrainConfig(
        file,
        parseOverrides([`out_dir=${place("filed")}`, "resume=true", ...settings]),
      );
    };
    await expect(load("train: { learning_rate: 1.0e-2, steps: 5000 }")).rejects.toThrow(
      /filed.yaml differs from the run in .*: train.steps 5000 \(the run: 4\); .*--set train.steps=5000$/,
    );
    const config = await load("train: { steps: 5000 }\neval: { every: 7 }", "train.steps=9");
    expect(config).toMatchObject({
      train: { steps: 9, learning_rate: 0.01 },
      eval: { every: 7 },
      resume: true,
    });
    const epochs = await load("", "train.steps=null", "train.epochs=2");
    expect(epochs.train).toMatchObject({ epochs: 2, batch_size: 2 });
    expect(epochs.train.steps).toBeUndefined();
  });
});

describe("a checkpoint", () => {
  const keep = ["train.steps=4", "checkpoint.every=2", "train.schedule=constant"];
  const checkpoints = (name: string) => readdirSync(join(place(name), "checkpoints")).sort();

  it("with one bit changed in any file is refused, and the older one that is whole is offered and works", async () => {
    const intact = await train("flipped", ...keep);
    const newest = join(place("flipped"), "checkpoints/step-000004");
    const files = readdirSync(newest);
    expect(files).toEqual(
      expect.arrayContaining([
        "model.safetensors",
        "optimizer.safetensors",
        "trainer_state.json",
        "tokenizer.json",
      ]),
    );
    const damaged =
      /step-000004\/[\w.]+ .*; the older checkpoint step-000002 is whole: go on from it with npx kiln/;
    for (const file of files) {
      const bytes = readFileSync(join(newest, file));
      const wrong = Uint8Array.from(bytes);
      wrong[wrong.length >> 1] ^= 1;
      writeFileSync(join(newest, file), wrong);
      await expect(resume("flipped"), file).rejects.toThrow(damaged);
      rmSync(join(newest, file));
      await expect(resume("flipped"), file).rejects.toThrow(damaged);
      writeFileSync(join(newest, file), bytes);
    }
    writeFileSync(join(newest, "optimizer.safetensors"), "");
    const again = await resume("flipped", "resume=step-000002");
    expect(again.text).toMatch(/set aside, delete it when you like: .*set-aside-step-000004/);
    expect(again.weights).toBe(intact.weights);
    expect(checkpoints("flipped")).toEqual(["set-aside-step-000004", "step-000002", "step-000004"]);
    const old = join(place("flipped"), "checkpoints/step-000002/trainer_state.json");
    for (const path of [old, old.replace("000002", "000004")]) writeFileSync(path, "{}");
    await expect(resume("flipped")).rejects.toThrow(/no older checkpoint is whole: start again/);
  });

  it("of an older version is not called damaged: the error says what can be done with it", async () => {
    await train("older", ...keep);
    const path = join(place("older"), "checkpoints/step-000004");
    rmSync(join(path, "checksums.json"));
    const state = JSON.parse(readFileSync(join(path, "trainer_state.json"), "utf8"));
    writeFileSync(join(path, "trainer_state.json"), JSON.stringify({ ...state, version: 1 }));
    await expect(resume("older")).rejects.toThrow(
      /written by another version of kiln.*--init-from .*step-000004/,
    );
  });

  it("is not saved where a moment or a weight is not finite", async () => {
    const run = await train("finite", ...keep);
    const tensors = new Map(run.model.namedParameters());
    const [name, tensor] = [...tensors].at(-1)!;
    const values = await tensor.data();
    const state = { format: "kiln-trainer", version: 2, step: 9 } as TrainerState;
    for (const [bad, text] of [
      [Number.NaN, "NaN"],
      [Number.POSITIVE_INFINITY, "Infinity"],
    ] as const) {
      tensor.write(Float32Array.from(values, (value, i) => (i === 3 ? bad : value)));
      const out = place(`finite-${text}`);
      const attempt = saveCheckpoint(out, { ...run, tensors: new Map() }, state, 2);
      await expect(attempt).rejects.toThrow(`${name} holds ${text} at index 3; it is not saved`);
      tensor.write(values);
      const moments = new Map([["exp_avg.x", tensor]]);
      const whole = await saveCheckpoint(out, { ...run, tensors: moments }, state, 2);
      expect(existsSync(whole)).toBe(true);
    }
  });

  it("of the lowest validation loss stays in best/, also over a resume", async () => {
    // A rate so high that the loss grows again.
    const wild = [...keep, "train.learning_rate=2", "eval.every=1", "train.max_grad_norm=0"];
    const start = (name: string, steps: number) =>
      train(name, ...wild, `train.steps=${steps}`, "checkpoint.keep_best=true");
    const whole = await start("best", 6);
    const measured = whole.records.filter((r) => "validation_loss" in r);
    const lowest = measured.reduce((a, b) => (b.validation_loss! < a.validation_loss! ? b : a));
    const kept = (name: string) => ({
      validation: JSON.parse(readFileSync(join(place(name), "best/validation.json"), "utf8")),
      weights: readFileSync(join(place(name), "best/model.safetensors")).toString("base64"),
    });
    expect(kept("best").validation).toEqual(lowest);
    expect(kept("best").weights).not.toBe(whole.weights);
    expect(whole.text).toMatch(new RegExp(`best validation loss .*, at step ${lowest.step}: .*best`));
    // Nothing that is measured after the resume is lower.
    await start("best-cut", lowest.step + 1);
    const resumed = await resume("best-cut", "train.steps=6");
    expect(resumed.weights).toBe(whole.weights);
    expect(kept("best-cut")).toEqual(kept("best"));
    const { model } = await loadModel(join(place("best"), "best"));
    expect(model.numParameters).toBe(whole.model.numParameters);
    expect(existsSync(join(place("whole"), "best"))).toBe(false);
  });
});

describe("best/", () => {
  it("holds what the last line says, where it was asked for late or the run went back", async () => {
    const said = async (name: string, run: { text: string }) => {
      const [, loss, step] = /best validation loss (\S+), at step (\d+)/.exec(run.text)!;
      const path = join(place(name), "best/validation.json");
      const kept = JSON.parse(readFileSync(path, "utf8"));
      expect([kept.validation_loss.toFixed(4), String(kept.step)]).toEqual([loss, step]);
      return kept;
    };
    const every = ["eval.every=1", "checkpoint.every=2"];
    await train("late", ...every, "train.steps=4");
    // From here on the loss only grows: the lowest one belongs to a model that nobody kept.
    const worse = ["train.steps=6", "train.learning_rate=2", "train.max_grad_norm=0"];
    const late = await resume("late", ...worse, "checkpoint.keep_best=true");
    expect(late.text).toMatch(
      /lowest validation loss so far, .* at step 4, was not kept: best\/ starts over/,
    );
    expect((await said("late", late)).step).toBeGreaterThan(4);

    await train("back", ...every, "train.steps=4", "checkpoint.keep_best=true");
    const back = await resume("back", ...worse, "resume=step-000002");
    expect((await said("back", back)).validation_loss).toBe(
      Math.min(...back.records.filter((r) => r.step > 2).flatMap((r) => (r.validation_loss as number) ?? [])),
    );
  });
});

describe("the run folder", () => {
  it("may not lie in a folder of the corpus: its files would become text", async () => {
    const data = place("corpus");
    mkdirSync(data);
    writeFileSync(join(data, "a.txt"), "Once upon a time there was a cat. ".repeat(40));
    symlinkSync(data, place("link"));
    for (const out of [data, join(data, "runs/x"), join(place("link"), "x")]) {
      for (const key of ["data.path", "data.validation_path"]) {
        const attempt = pretrainWith([...toy, `${key}=${data}`, `out_dir=${out}`]);
        await expect(attempt).rejects.toThrow(`the run's folder ${out} is inside of the data folder ${data}`);
      }
    }
    expect(readdirSync(data)).toEqual(["a.txt"]);
    await pretrainWith([...toy, `data.path=${data}`, `out_dir=${data}-run`]);
  });
});

describe("the demo", () => {
  it("goes on with an interrupted run as it was, and leaves a folder alone that another process writes", async () => {
    await train("demo", "train.steps=4", "checkpoint.every=2");
    const out = place("demo");
    rmSync(join(out, "model"), { recursive: true });
    let asked: PretrainConfig | undefined;
    const options = (failure: KilnError) => ({
      out,
      say: () => {},
      pretrain: async (config: PretrainConfig): Promise<never> => {
        asked = config;
        throw failure;
      },
    });
    await expect(demo(options(new KilnError("enough")))).rejects.toThrow("enough");
    expect(asked).toMatchObject({ resume: true, out_dir: out, train: { steps: 4, sequence_length: 32 } });
    const old = options(new KilnError("old", { code: "checkpoint_version" }));
    await expect(demo(old)).rejects.toThrow(/another version of kiln: npm start -- --fresh trains it again/);
    const lock = JSON.stringify({ pid: process.ppid, host: hostname(), started: null });
    writeFileSync(join(out, lockFile), lock);
    for (const fresh of [false, true]) {
      const attempt = demo({ ...options(new KilnError("never")), fresh });
      await expect(attempt).rejects.toThrow(/another process .* is writing this run folder/);
    }
    expect(readdirSync(join(out, "checkpoints"))).toHaveLength(2);
  });
});
