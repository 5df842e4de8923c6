import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import type { GenerationOptions } from "../models/generation.ts";
import { type CodeWriter, evaluateCode } from "../train/eval/code.ts";
import { readProblems } from "../train/eval/code_problems.ts";
import { writeReport } from "../train/report/evaluation.ts";

const data = new URL("fixtures/code_javascript.jsonl", import.meta.url).pathname;
const folder = mkdtempSync(join(tmpdir(), "kiln-eval-code-"));
afterAll(() => rmSync(folder, { recursive: true }));
const file = (name: string, rows: unknown[]) => {
  const path = join(folder, name);
  writeFileSync(path, rows.map((row) => `${JSON.stringify(row)}\n`).join(""));
  return path;
};

const problems = readFileSync(data, "utf8")
  .trim()
  .split("\n")
  .map((line) => JSON.parse(line));
const right = problems.map(({ task_id, canonical_solution }) => ({
  task_id,
  completion: canonical_solution,
}));
const wrong = [
  "  return 1;\n}\n",
  "  return (",
  "  for (;;);\n}\n",
  `  fs.writeFileSync("/x", "");\n}\n`,
  "  net.connect(1);\n}\n",
];

describe("pass@k of a file of completions", () => {
  it("is the unbiased estimate, with what became of each program", async () => {
    const rows = [
      ...right,
      ...wrong.map((completion) => ({ task_id: "js/sum", completion })),
      ...right.slice(1),
    ];
    rows.push({ task_id: "js/delay", completion: "  return value;\n}\n" });
    const report = await evaluateCode({
      data: [data],
      completions: file("mixed.jsonl", rows),
      ...{ k: [1, 2], timeout: 2, out: join(folder, "out") },
    });
    const { values } = report as { values: Record<string, unknown> };
    // 1 of 6, 2 of 2 and 2 of 3.
    expect(values["pass@1"]).toBeCloseTo((1 / 6 + 1 + 2 / 3) / 3, 12);
    expect(values["pass@2"]).toBeCloseTo((1 - (5 * 4) / (6 * 5) + 1 + 1) / 3, 12);
    expect(values.outcomes).toEqual({ passed: 5, assertion: 2, syntax: 1, timeout: 1, write: 1, network: 1 });
    expect(values.per_problem).toContainEqual({
      ...{ task_id: "js/delay", samples: 3, passed: 2 },
      outcomes: { passed: 2, assertion: 1 },
    });
    const results = readFileSync(join(folder, "out/results.jsonl"), "utf8").trim().split("\n");
    expect(results.map((line) => JSON.parse(line)).filter(({ passed }) => passed)).toHaveLength(5);
    await writeReport(join(folder, "out"), report);
    const written = (name: string) => readFileSync(join(folder, "out", name), "utf8");
    expect(JSON.parse(written("report.json"))).toEqual(values);
    expect(written("report.md")).toMatch(/js\/delay .*assertion 1/);
    expect(written("report.html")).toContain("<td>js/delay</td>");
  });

  it.each<[string, Record<string, unknown>, string]>([
    [
      "an unknown problem",
      { completions: [{ task_id: "js/sun", completion: "" }] },
      "no problem js/sun; did you mean js/sum?",
    ],
    [
      "a problem left out",
      { completions: right.slice(1) },
      "has no completion of 1 of 3 problems, the first js/sum",
    ],
    ["too few for k", { completions: right, k: [1, 10] }, "has 1 of js/sum: pass@10 needs 10 completions"],
    [
      "a completion of numbers",
      { completions: [{ task_id: "js/sum", completion: 1 }] },
      "row 1 (line 1): completion should be a text",
    ],
  ])("refuses %s", async (name, { completions, ...flags }, message) => {
    const path = file(`${name}.jsonl`, completions as unknown[]);
    await expect(evaluateCode({ data: [data], completions: path, ...flags })).rejects.toThrow(message);
  });

  it("does not replace the completions by their results", async () => {
    const completions = file("results.jsonl", right);
    await expect(evaluateCode({ data: [data], completions, out: folder })).rejects.toThrow("would replace");
  });

  it("stops its programs with the signal", async () => {
    const rows = problems.map(({ task_id }) => ({ task_id, completion: "  for (;;);\n}\n" }));
    const signal = AbortSignal.timeout(300);
    const run = evaluateCode({ data: [data], completions: file("loops.jsonl", rows), timeout: 99, signal });
    await expect(run).rejects.toMatchObject({ exitCode: 130 });
  });
});

const own = new URL("fixtures/code_python.jsonl", import.meta.url).pathname;
const hasPython = spawnSync("python3", ["--version"]).status === 0;
it.skipIf(!hasPython)(
  "own problems in the shapes of HumanEval and MBPP (skipped without python3)",
  async () => {
    const rows = readFileSync(own, "utf8").trim().split("\n");
    const parsed = rows.map(
      (row) => JSON.parse(row) as { task_id: string; canonical_solution: string; mutants: string[] },
    );
    const passed = async (name: string, of: (row: (typeof parsed)[0]) => string[]) => {
      const written = parsed.flatMap((row) =>
        of(row).map((completion) => ({ task_id: row.task_id, completion })),
      );
      const { values } = await evaluateCode({ data: [own], completions: file(name, written), timeout: 2 });
      return values["pass@1"];
    };
    expect(await passed("own.jsonl", (row) => [row.canonical_solution])).toBe(1);
    expect(await passed("mutants.jsonl", (row) => row.mutants)).toBe(0);
  },
);

it("asks a model for samples, and counts prompts that it cannot read as failed", async () => {
  const asked: GenerationOptions[] = [];
  const writer = {
    name: "a model",
    model: { shape: { max_position_embeddings: 80 } },
    tokenizer: { encode: async (text: string) => [...text].map((_, i) => i) },
    generator: {
      generate: async (prompts: string[], options: GenerationOptions) => {
        asked.push(options);
        return prompts.map(() =>
          ["  return 1;\n}\n", "  return numbers.reduce((a, b) => a + b, 0);\n}\n"].map((text, i) => ({
            ...{ text, token_ids: [1], finish_reason: i === 0 ? "length" : "stop" },
          })),
        );
      },
    },
  } as unknown as CodeWriter;
  const [sum, words] = problems;
  const flags = { data: [file("two.jsonl", [sum, words])], k: [1, 2], seed: 5, maxTokens: 64 };
  const { values } = await evaluateCode(flags, writer);
  expect(values).toMatchObject({ "pass@1": 0.25, "pass@2": 0.5, temperature: 0.8, completions_cut: 1 });
  expect(values.outcomes).toEqual({ passed: 1, assertion: 1, "prompt longer than the context": 2 });
  expect(asked).toEqual([
    {
      ...{ n: 2, max_tokens: 64, temperature: 0.8, top_p: 1, seed: 5 },
      stop: expect.arrayContaining(["\nfunction "]),
    },
  ]);
});

describe("problems", () => {
  it("in MBPP's shape ask with a docstring and test a whole program", async () => {
    const row = {
      task_id: 7,
      prompt: "Add.",
      test_imports: ["import math"],
      test_list: ["assert add(1, 2) == 3", "assert 1"],
    };
    const problem = (await readProblems([file("mbpp.jsonl", [row])])).get("7")!;
    expect(problem.prompt).toBe('"""\nAdd.\nassert add(1, 2) == 3\n"""\n');
    expect(problem.program("code")).toBe("import math\n\ncode\nassert add(1, 2) == 3\nassert 1\n");
  });

  it.each([
    [
      [{ task_id: "a", prompt: "b" }],
      "row 1 (line 1): test should be a text; the row's fields are: task_id, prompt",
    ],
    [[{ prompt: "b", test: "c" }], "there is no task_id"],
    [[problems[0], problems[0]], "row 2 (line 2): the task_id js/sum is there twice"],
    [[{ ...problems[0], language: "cobol" }], 'the language "cobol" is neither python nor javascript'],
    [[{ ...problems[0], entry_point: "f()" }], 'entry_point "f()" is no name of a function'],
    [[{ task_id: 1, text: "a", test_list: [] }], "test_list is empty"],
  ])("refuses %j", async (rows, message) => {
    await expect(readProblems([file("bad.jsonl", rows)])).rejects.toThrow(message);
  });
});
