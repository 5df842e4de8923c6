import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import * as fc from "fast-check";
import { afterAll, describe, expect, it, vi } from "vitest";
import { Registry } from "../models/registry/registry.ts";
import { keepResult } from "../serve/app/jobs/keep_result.ts";
import type { Job } from "../serve/store/jobs.ts";
import { fitRows } from "../train/data/fit_rows.ts";

/** What a fine-tune may take and leave: versions, time, rows. */

const folder = mkdtempSync(path.join(tmpdir(), "kiln-limits-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe("what was trained", () => {
  const registry = new Registry(path.join(folder, "registry"));
  /** As a run leaves it, with an adapter of a few bytes. */
  function run(id: string): string {
    const out = path.join(folder, id);
    mkdirSync(path.join(out, "model"), { recursive: true });
    const config = {
      peft_type: "LORA",
      r: 1,
      lora_alpha: 2,
      target_modules: ["q_proj"],
      task_type: "CAUSAL_LM",
    };
    writeFileSync(path.join(out, "model/adapter_config.json"), JSON.stringify(config));
    writeFileSync(path.join(out, "model/adapter_model.safetensors"), id);
    writeFileSync(
      path.join(out, "log.jsonl"),
      [
        { step: 1, loss: 3 },
        { step: 2, validation_loss: 2.5 },
        { step: 2, loss: 2 },
        { step: 4, validation_loss: 2.75 },
      ]
        .map((record) => `${JSON.stringify(record)}\n`)
        .join(""),
    );
    const sample = (step: number, text: string) => `=== step ${step} ===\nUser: Hi\nAssistant: ${text}\n\n`;
    writeFileSync(path.join(out, "samples.txt"), sample(0, "Once") + sample(2, "Half") + sample(4, "Hello!"));
    return out;
  }
  const job = (id: string) => ({ id, payload: { name: "user-ada", base: "demo" } }) as unknown as Job;
  const versions = () =>
    readdirSync(path.join(folder, "registry/user-ada"))
      .filter((name) => /^\d+$/.test(name))
      .sort();

  it("is the live version, with its numbers and what it wrote before and after", async () => {
    expect(await keepResult(job("j1"), run("j1"), registry)).toEqual({
      ...{ version: "user-ada@1", base: "demo", steps: 4, published: null },
      loss: { first: 3, last: 2 },
      validation_loss: { first: 2.5, best: 2.5 },
      samples: { before: ["User: Hi\nAssistant: Once"], after: ["User: Hi\nAssistant: Hello!"] },
    });
    // A worker that was lost before it could say so has another do it again.
    expect((await keepResult(job("j1"), run("j1"), registry)).version).toBe("user-ada@1");
  });

  it("is kept in its last three versions, and one that is in use longer", async () => {
    await registry.alias("user-ada", "dear", 1);
    for (const id of ["j2", "j3", "j4"]) await keepResult(job(id), run(id), registry);
    expect(versions()).toEqual(["1", "2", "3", "4"]);
    await registry.alias("user-ada", "dear", null);
    expect((await keepResult(job("j5"), run("j5"), registry)).version).toBe("user-ada@5");
    expect(versions()).toEqual(["3", "4", "5"]);
    expect((await registry.find("user-ada@live")).version).toBe(5);
  });
});

describe("a run of more than two hours", () => {
  it.each([
    ["ends with its work saved", "process.on('SIGTERM', () => process.exit(130))", 0],
    ["is killed where it does not end", "process.on('SIGTERM', () => {})", 7000],
  ])("%s", async (_, onTerm, patience) => {
    // A command of that package that never ends: what `kiln train` does is nothing to the clock.
    mkdirSync(path.join(folder, "bin"), { recursive: true });
    const begun = "process.send({ steps: 7, done: 0 }); setInterval(() => {}, 1000);";
    writeFileSync(path.join(folder, "bin/kiln.mjs"), `${onTerm}; ${begun}`);
    vi.doMock("../core/platform/package_node.ts", () => ({ packageRoot: folder }));
    const { train } = await import("../serve/app/jobs/training_process.ts");
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
    try {
      let ended = false;
      let running!: Promise<boolean>;
      await new Promise<void>((begun) => {
        const { signal } = new AbortController();
        running = train({ args: [], signal, said: () => {}, begun: () => begun() });
        running.catch(() => {}).finally(() => (ended = true));
      });
      vi.advanceTimersByTime(2 * 3_600_000 - 1);
      await new Promise((resolve) => setImmediate(resolve));
      expect(ended).toBe(false);
      vi.advanceTimersByTime(1);
      if (patience > 0) {
        vi.advanceTimersByTime(patience - 1);
        await new Promise((resolve) => setImmediate(resolve));
        expect(ended).toBe(false);
        vi.advanceTimersByTime(1);
      }
      await expect(running).rejects.toMatchObject({
        ...{ code: "time_limit", message: "it took more than 2 hours: resume it" },
        isFinal: true,
      });
    } finally {
      vi.useRealTimers();
      vi.doUnmock("../core/platform/package_node.ts");
      vi.resetModules();
    }
  });
});

describe("a run that fails", () => {
  it.each([
    [1, true],
    [75, false],
  ])("with the exit code %i is final: %s", async (code, isFinal) => {
    mkdirSync(path.join(folder, "bin"), { recursive: true });
    writeFileSync(
      path.join(folder, "bin/kiln.mjs"),
      `console.error("kiln: no"); process.exitCode = ${code};`,
    );
    vi.doMock("../core/platform/package_node.ts", () => ({ packageRoot: folder }));
    const { train } = await import("../serve/app/jobs/training_process.ts");
    const { signal } = new AbortController();
    await expect(train({ args: [], signal, said: () => {}, begun: () => {} })).rejects.toMatchObject({
      ...{ message: "no", isFinal },
    });
    vi.doUnmock("../core/platform/package_node.ts");
    vi.resetModules();
  });
});

describe("rows", () => {
  const largest = { batch_size: 4, sequence_length: 512 };

  it("of much are as long as they may be, of little such that a pass has some updates", () => {
    expect(fitRows(Array(400).fill(60), 10, largest)).toEqual(largest);
    expect(fitRows(Array(40).fill(60), 10, largest)).toEqual({ batch_size: 3, sequence_length: 64 });
    expect(fitRows(Array(200).fill(60), 10, largest)).toEqual({ batch_size: 3, sequence_length: 304 });
    expect(fitRows(Array(4).fill(500), 10, largest)).toEqual({ batch_size: 1, sequence_length: 512 });
    expect(fitRows([], 10, largest)).toEqual({ batch_size: 1, sequence_length: 16 });
  });

  it("hold every example, and never more than asked for (property)", () => {
    void fc.assert(
      fc.property(fc.array(fc.integer({ min: 1, max: 512 }), { minLength: 1, maxLength: 300 }), (lengths) => {
        const fitted = fitRows(lengths, 10, largest);
        const { batch_size, sequence_length } = fitted;
        // A run that is resumed is fitted again.
        expect(fitRows(lengths, 10, fitted)).toEqual(fitted);
        expect(sequence_length).toBeGreaterThanOrEqual(Math.max(...lengths));
        expect(sequence_length).toBeLessThanOrEqual(512);
        expect(batch_size).toBeLessThanOrEqual(4);
        // Ten updates of a pass, or one for each row where the longest example fills one.
        const total = lengths.reduce((sum, length) => sum + length, 0);
        const places = batch_size * sequence_length;
        const fits = batch_size === 1 || total / places >= 10;
        expect(fits || places === 4 * 512).toBe(true);
      }),
    );
  });
});
