import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gunzipSync } from "node:zlib";
import { afterAll, describe, expect, it } from "vitest";
import { evaluateCode } from "../train/eval/code.ts";

const data = new URL("../../shared/data/code/HumanEval.jsonl.gz", import.meta.url).pathname;
const hasAll = existsSync(data) && spawnSync("python3", ["--version"]).status === 0;
const mbpp = new URL("../../shared/data/code/sanitized-mbpp.json", import.meta.url).pathname;
const folder = mkdtempSync(join(tmpdir(), "kiln-human-eval-"));
afterAll(() => rmSync(folder, { recursive: true }));

describe.skipIf(!hasAll)("HumanEval (skipped: no ../shared/data or python3)", () => {
  it("its own solutions pass, and those of other problems fail", async () => {
    const rows = gunzipSync(readFileSync(data)).toString().trim().split("\n");
    const problems = rows.map((line) => JSON.parse(line) as { task_id: string; canonical_solution: string });
    const completions = join(folder, "completions.jsonl");
    // Five problems are given another's solution too.
    const wrong = problems.slice(0, 5).map(({ task_id }, i) => ({ ...problems[i + 100], task_id }));
    const lines = [...problems, ...wrong].map(({ task_id, canonical_solution: completion }) =>
      JSON.stringify({ task_id, completion }),
    );
    writeFileSync(completions, lines.join("\n"));
    // Three seconds are little where other tests take the processor.
    const { values } = await evaluateCode({ data: [data], completions, timeout: 20 });
    expect(values).toMatchObject({ problems: 164, programs: 169, outcomes: { passed: 164 } });
    expect(values["pass@1"]).toBeCloseTo((159 + 5 / 2) / 164, 12);
  });
});

describe.skipIf(!hasAll || !existsSync(mbpp))(
  "MBPP, the first 25 (skipped: no ../shared/data or python3)",
  () => {
    it("its own solutions pass, and functions that return something else do not", async () => {
      const rows = JSON.parse(readFileSync(mbpp, "utf8")).slice(0, 25) as { task_id: number; code: string }[];
      const data = join(folder, "mbpp.jsonl");
      writeFileSync(data, rows.map((row) => JSON.stringify(row)).join("\n"));
      const other = (code: string) =>
        [...code.matchAll(/^def (\w+)/gm)].map(([, name]) => `\ndef ${name}(*a, **k): return object()\n`);
      const score = async (solution: (code: string) => string) => {
        const completions = join(folder, "mbpp_completions.jsonl");
        const lines = rows.map(({ task_id, code }) =>
          JSON.stringify({ task_id, completion: solution(code) }),
        );
        writeFileSync(completions, lines.join("\n"));
        return (await evaluateCode({ data: [data], completions, timeout: 20 })).values["pass@1"];
      };
      expect(await score((code) => code)).toBe(1);
      expect(await score((code) => code + other(code).join(""))).toBe(0);
    });
  },
);

const hasPyodide = await import("pyodide/package.json", { with: { type: "json" } }).then(
  () => true,
  () => false,
);

it.skipIf(!hasPyodide)("HumanEval's format by Pyodide, without a python3 (skipped: no pyodide)", async () => {
  const own = new URL("fixtures/code_python.jsonl", import.meta.url).pathname;
  const [line] = readFileSync(own, "utf8").split("\n");
  const { task_id, canonical_solution, mutants } = JSON.parse(line!);
  const data = join(folder, "one.jsonl");
  writeFileSync(data, line!);
  const completions = join(folder, "one_completions.jsonl");
  const lines = [canonical_solution, mutants[0]].map((completion) => JSON.stringify({ task_id, completion }));
  writeFileSync(completions, lines.join("\n"));
  const said: string[] = [];
  const { values } = await evaluateCode({
    ...{ data: [data], completions, tier: "wasm", timeout: 60 },
    say: (line) => said.push(line),
  });
  expect(values).toMatchObject({ problems: 1, programs: 2, outcomes: { passed: 1, assertion: 1 } });
  expect(said.join("\n")).toMatch(/Pyodide/i);
});
