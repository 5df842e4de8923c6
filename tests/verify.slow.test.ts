import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gunzipSync, gzipSync } from "node:zlib";
import { afterAll, describe, expect, it } from "vitest";
import { verify } from "../bench/verify/index.ts";
import type { OpCase } from "../bench/verify/ops.ts";
import type { CaseResult } from "../bench/verify/report.ts";
import {
  type HostTensor,
  parseSafetensors,
  serializeSafetensors,
  toFloat32,
} from "../models/formats/safetensors.ts";

const golden = new URL("./fixtures/golden/", import.meta.url).pathname;
const shared = new URL("../../shared/golden/", import.meta.url).pathname;
const folder = mkdtempSync(join(tmpdir(), "kiln-verify-"));
afterAll(() => rmSync(folder, { recursive: true }));

interface Run {
  lines: string[];
  passed: number;
  failed: number;
  skipped: number;
}

async function run(dir: string, filter?: string): Promise<Run> {
  const lines: string[] = [];
  const counts = await verify(dir, { write: (line) => lines.push(line), ...(filter && { filter }) });
  return { lines, ...counts };
}

/** Names of the cases with this verdict. */
function named({ lines }: Run, verdict: RegExp): string[] {
  return lines.filter((line) => verdict.test(line)).map((line) => line.split(" ")[0]);
}

const goldenOps: OpCase[] = JSON.parse(readFileSync(join(golden, "ops.json"), "utf8"));
const goldenTensors = parseSafetensors(gunzipSync(readFileSync(join(golden, "ops.safetensors.gz"))), "ops");

/** A fixture of some op cases, with tensors changed on the way. */
function opFixture(
  name: string,
  cases: OpCase[],
  change: (tensors: Map<string, HostTensor>) => void,
): string {
  const dir = join(folder, name);
  const names = cases.flatMap((c) => [
    ...Object.values(c.inputs),
    ...c.outputs,
    ...c.cotangents,
    ...Object.values(c.grads),
  ]);
  const tensors = new Map(
    names.map((n) => {
      const { dtype, shape, bytes } = goldenTensors.get(n)!;
      return [n, { dtype, shape, bytes: bytes.slice() }];
    }),
  );
  change(tensors);
  mkdirSync(dir, { recursive: true });
  writeFileSync(join(dir, "ops.json"), JSON.stringify(cases));
  writeFileSync(join(dir, "ops.safetensors.gz"), gzipSync(serializeSafetensors(tensors)));
  return dir;
}

/** Adds to one element of an f32 tensor. */
function nudge(tensors: Map<string, HostTensor>, name: string, index: number, by: number): void {
  const values = toFloat32(tensors.get(name)!).slice();
  values[index] += by;
  tensors.get(name)!.bytes = new Uint8Array(values.buffer);
}

const add = goldenOps.find((c) => c.name === "add/row")!;

describe("verify", () => {
  it("passes every case of the fixtures: ops, optimizers, schedules, sampling, decoders and their loss curves", async () => {
    const found = await run(golden);
    expect(named(found, /FAILED/)).toEqual([]);
    expect(found).toMatchObject({ failed: 0, skipped: 0 });
    expect(found.lines[0]).toMatch(/GPU/);
    expect(found.lines.at(-1)).toBe(`${found.passed} passed, 0 failed, 0 skipped`);
    const passed = named(found, / passed/);
    const expected = [
      ...goldenOps.map((c) => `ops/${c.name}`.split(" ")[0]),
      "optim/muon",
      "optim/clip",
      "optim/schedule/wsd",
      "sampling/top_p",
      ...["llama", "gpt2"].flatMap((model) => [
        ...["hidden", "logits", "loss", "gradients", "grad_norm", "greedy", "paged"].map(
          (part) => `models/${model}/${part}`,
        ),
        `curves/${model}/losses`,
        `curves/${model}/grad_norms`,
      ]),
      ...["logits", "gradients", "merged", "merged_logits"].map((part) => `models/llama-lora/${part}`),
      "models/bert-classifier/gradients",
      "models/bert-qa/end_logits",
      "curves/distilbert-classifier/losses",
    ];
    for (const name of expected) expect(passed).toContain(name);
  }, 400_000);

  it.skipIf(!existsSync(shared)).each(["reference", "more"])(
    "passes ../shared/golden/%s and skips what this version does not load (skipped: no ../shared/golden)",
    async (set) => {
      const found = await run(join(shared, set));
      expect(named(found, /FAILED/)).toEqual([]);
      const skipped = named(found, /skipped {2}\(.*not loaded by this version\)/);
      expect(found.skipped).toBe(skipped.length);
      for (const name of skipped)
        expect(name).not.toMatch(/\/(distil)?bert-(?!lora)|deberta|roberta|gpt2-classifier/);
      const loaded = named(found, / passed/).filter((name) => /bert|gpt2-classifier/.test(name));
      expect(loaded.length).toBeGreaterThan(20);
    },
    400_000,
  );

  it("fails a case when one number of a result or of a gradient is off, or not a number", async () => {
    const only = (name: string, change: (tensors: Map<string, HostTensor>) => void) =>
      run(opFixture(name, [add], change));
    expect(await only("same", () => {})).toMatchObject({ passed: 1, failed: 0 });
    for (const tensor of [add.outputs[0], add.grads.other!]) {
      const off = await only("off", (tensors) => nudge(tensors, tensor, 2, 1e-3));
      expect(off).toMatchObject({ passed: 0, failed: 1 });
      expect(off.lines[1]).toMatch(/^ops\/add\/row .* tolerance .* FAILED/);
      const nan = await only("nan", (tensors) => nudge(tensors, tensor, 2, Number.NaN));
      expect(nan).toMatchObject({ passed: 0, failed: 1 });
    }
  });

  it("fails what it does not know or cannot read, and goes on", async () => {
    const unknown = { ...add, name: "frobnicate/basic", op: "frobnicate" };
    const torn = { ...add, name: "add/torn", outputs: ["nowhere"] };
    const dir = opFixture("unknown", [add], () => {});
    writeFileSync(join(dir, "ops.json"), JSON.stringify([unknown, torn, add]));
    writeFileSync(join(dir, "broken.json"), "{");
    const found = await run(dir);
    expect(found).toMatchObject({ passed: 1, failed: 3, skipped: 0 });
    const text = found.lines.join("\n");
    expect(text).toMatch(/frobnicate\/basic .*FAILED.*no op frobnicate/);
    expect(text).toMatch(/add\/torn .*FAILED.*no tensor nowhere/);
    expect(text).toMatch(/broken .*FAILED.*not valid JSON/);
  });

  it("fails schedules, sampling and optimizers whose reference is another", async () => {
    const dir = join(folder, "numbers");
    cpSync(golden, dir, {
      recursive: true,
      filter: (path) => !/ops\.|models|curves/.test(path.slice(golden.length)),
    });
    const edit = (file: string, change: (json: never) => void) => {
      const json = JSON.parse(readFileSync(join(dir, file), "utf8"));
      change(json as never);
      writeFileSync(join(dir, file), JSON.stringify(json));
    };
    edit("sampling.json", (json: { cases: { probs: number[][] }[] }) => {
      json.cases[1].probs[1][0] += 1e-4;
    });
    edit(
      "optim.json",
      (json: {
        runs: { name: string; defaults: { lr: number } }[];
        schedules: { lr: { cosine: number[] } };
      }) => {
        json.schedules.lr.cosine[20] *= 1.000001;
        json.runs.find((r) => r.name === "adamw")!.defaults.lr *= 1.01;
      },
    );
    const found = await run(dir);
    expect(named(found, /FAILED/).sort()).toEqual(["optim/adamw", "optim/schedule/cosine", "sampling/top_k"]);
    expect(found.passed).toBeGreaterThan(10);
  });

  it("fails a model whose reference gradient or greedy tokens are others", async () => {
    const dir = join(folder, "model");
    cpSync(join(golden, "models/llama"), dir, { recursive: true });
    const path = join(dir, "expected.safetensors");
    const tensors = parseSafetensors(readFileSync(path), path);
    const name = "grad.model.layers.1.mlp.up_proj.weight";
    nudge(tensors, name, 5, 2e-3 * Math.max(...toFloat32(tensors.get(name)!)));
    writeFileSync(path, serializeSafetensors(tensors));
    const expected = JSON.parse(readFileSync(join(dir, "expected.json"), "utf8"));
    expected.greedy[1][30] = (expected.greedy[1][30] + 1) % 97;
    writeFileSync(join(dir, "expected.json"), JSON.stringify(expected));
    const found = await run(dir);
    expect(named(found, /FAILED/).map((n) => n.split("/").at(-1))).toEqual(["gradients", "greedy", "paged"]);
  }, 200_000);

  it("writes JSON lines when asked, and only the cases that the filter lets through", async () => {
    const lines: string[] = [];
    const dir = opFixture(
      "json",
      [add, goldenOps.find((c) => c.name === "sum/dim=None,keep=False")!],
      () => {},
    );
    await verify(dir, { write: (line) => lines.push(line), json: true, filter: "sum" });
    const [adapter, result, summary] = lines.map((line) => JSON.parse(line));
    expect(adapter.adapter).toHaveProperty("driver");
    expect(result).toMatchObject({
      name: "ops/sum/dim=None,keep=False",
      status: "passed",
    } satisfies CaseResult);
    expect(summary).toEqual({ passed: 1, failed: 0, skipped: 0 });
    expect(lines).toHaveLength(3);
  });

  it("says so when there is nothing to verify", async () => {
    const empty = mkdtempSync(join(folder, "empty-"));
    await expect(run(empty)).rejects.toThrow(/holds no reference numbers/);
    await expect(
      run(
        opFixture("none", [add], () => {}),
        "nothing-like-it",
      ),
    ).rejects.toThrow(/no case whose name/);
    await expect(run(join(empty, "missing"))).rejects.toThrow(/is not a folder that can be read/);
  });
});
