import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { afterAll, describe, expect, it, onTestFinished, vi } from "vitest";
import { barsOf, type GpuRun } from "../bench/gpu/bars.ts";
import { renderTable } from "../bench/gpu/render.ts";
import { type RowsOptions, runRows } from "../bench/gpu/rows_process.ts";
import { gpuTable } from "../bench/gpu/table.ts";
import { type RowLine, timeRows } from "../bench/gpu/time_rows.ts";
import { readTorch, runTorch, type TorchLine, taskRuns } from "../bench/gpu/torch.ts";
import { historyKey, record } from "../bench/history.ts";
import { readHistory, sections, writePage } from "../bench/page/index.ts";
import { Peers } from "../bench/peers.ts";
import { commit } from "../bench/report.ts";
import { gpuRows, smallRows } from "../bench/rows/index.ts";
import type { GpuRow } from "../bench/rows/row.ts";

import { type BenchReport, bench } from "../bench/run.ts";
import { renderRow, tableHead } from "../bench/table.ts";
import { KilnError } from "../core/errors.ts";
import { launchChromium } from "./browser/chromium.ts";

const folder = mkdtempSync(join(tmpdir(), "kiln-bench-"));
afterAll(() => rmSync(folder, { recursive: true }));

/** Runs rows of software adapters quickly, on whatever adapter there is, without peers. */
async function quick(filter: string, json = false): Promise<{ report: BenchReport; lines: string[] }> {
  const lines: string[] = [];
  const report = await bench({ filter, rows: "small", json, quick: true, write: (line) => lines.push(line) });
  return { report, lines };
}

describe("bench", () => {
  it("times rows against roofs of the same run and labels figures of software adapters", async () => {
    const { report, lines } = await quick("matmul 256");
    const text = lines.join("\n");
    expect(report.results).toHaveLength(1);
    const row = report.results[0];
    expect(row).toMatchObject({ name: "matmul 256", by: "kiln", unit: "GFLOP/s" });
    expect(row.gflops! * row.ms!).toBeCloseTo((2 * 256 ** 3) / 1e6, 3);
    const { gflops, gb_per_s } = report.roofline;
    expect(row.roofline).toBe(Math.max(row.gflops! / gflops, row.gb_per_s! / gb_per_s));
    expect(text).toContain(`commit ${report.commit}`);
    expect(text).toContain("toggles");
    expect(text).toContain("QUICK");
    expect(text.includes("SOFTWARE ADAPTER")).toBe(report.adapter.software);
    expect(lines.at(-1)!.includes("GFLOP/s sw")).toBe(report.adapter.software);
  });

  it("gives JSON, and tokens per second where they count", async () => {
    const { lines } = await quick("decode TinyLLM batch 1 ".trim(), true);
    expect(lines).toHaveLength(1);
    const report = JSON.parse(lines[0]) as BenchReport;
    expect(report.results.map((r) => r.name)).toEqual(["decode TinyLLM batch 1", "decode TinyLLM batch 16"]);
    for (const row of report.results) expect(row.tokens_per_s).toBeGreaterThan(0);
  });

  it("covers kernels, training and decoding, each with its least work", () => {
    const names = smallRows().map((row) => row.name);
    for (const part of [
      "matmul 1024",
      "softmax",
      "layer_norm",
      "rms_norm",
      "add",
      "attention+backward",
      "train step",
    ])
      expect(
        names.some((name) => name.includes(part)),
        part,
      ).toBe(true);
    for (const row of smallRows()) expect(Math.min(row.flops, row.bytes), row.name).toBeGreaterThan(0);
    expect(new Set(names).size).toBe(names.length);
  });

  it("names the rows there are when the filter fits none", async () => {
    await expect(quick("matmull")).rejects.toThrow(/no benchmark's name contains "matmull".*matmul 256/);
  });

  it("does not call a GPU's figures software, and records whole runs only", async () => {
    const adapter = { driver: "hardware", description: "A GPU / 2" } as BenchReport["adapter"];
    const report = { adapter, software: false, quick: false, results: [] } as unknown as BenchReport;
    const result = {
      name: "x",
      by: "kiln",
      ms: 1,
      gflops: 2,
      gb_per_s: 3,
      unit: "GB/s",
      roofline: 0.5,
    } as const;
    expect(`${tableHead(report)}${renderRow(result, report)}`).not.toMatch(/sw|software/);
    const path = await record(report, pathToFileURL(`${folder}/`));
    await record(report, pathToFileURL(`${folder}/`));
    expect(path).toMatch(/hardware-a-gpu-2\.jsonl$/);
    expect(readFileSync(path, "utf8").trim().split("\n")).toHaveLength(2);
    await expect(record({ ...report, quick: true })).rejects.toThrow(/quick run is no measurement/);
  });
});

describe("GPU rows", () => {
  it("have the tasks of PyTorch's ruler, each with its least work", () => {
    const rows = gpuRows();
    const tasks = new Set(rows.map((row) => row.task));
    const products = ["512x512x512", "1024x1024x1024", "4096x4096x4096", "8192x768x3072", "8192x768x50257"];
    const others = ["64x768x3072", "1x4096x4096"];
    const matrices = ["8192x768", "16384x4096"].flatMap((size) =>
      ["softmax", "layernorm", "gelu", "add"].map((name) => `rows_${name}_${size}`),
    );
    const decoding = ["tinyllm_128x4", "gpt2_124M"].flatMap((model) =>
      [1, 16, 128].map((batch) => `decode_${model}_B${batch}_in64_out128`),
    );
    for (const task of [
      ...[...products, ...others].map((size) => `matmul_${size}`),
      ...matrices,
      ...decoding,
      "attention_fwd_8x12x1024x64",
      "attention_fwdbwd_8x12x1024x64",
      "cross_entropy_fwdbwd_8192x50257",
      "adamw_124M",
      "train_tinyllm_128x4_B64_T256",
      "train_gpt2_124M_B8_T1024",
    ])
      expect(tasks, task).toContain(task);
    expect(new Set(rows.map((row) => row.name)).size).toBe(rows.length);
    for (const row of rows) expect(Math.min(row.flops, row.bytes), row.name).toBeGreaterThan(0);
  });

  it("come in an order that leaves out the least when time is short", () => {
    const rows = gpuRows();
    const decides = ({ role }: GpuRow) =>
      /^(gemm (largest|transformer)|rows \w+ large|train|attention|decode tinyllm f(32|16) (1|128)$)/.test(
        role,
      );
    const last = rows.map(decides).lastIndexOf(true);
    expect(last).toBe(rows.filter(decides).length - 1);
    expect(rows.slice(-2).map(({ role }) => role)).toEqual(["decode gpt2 f32 128", "decode gpt2 f16 128"]);
  });

  it("count what memory sees: a sum with itself reads one tensor", () => {
    const bytes = (task: string) => gpuRows().find((row) => row.task === task)!.bytes;
    expect(bytes("rows_add_16384x4096")).toBe(2 * 4 * 16384 * 4096);
    expect(bytes("rows_add_two_16384x4096")).toBe(3 * 4 * 16384 * 4096);
  });

  it("are measured with bounds checks on and off, beside PyTorch's lines, within the budget", async () => {
    const torch = join(folder, "lines.jsonl");
    writeFileSync(torch, '{"task":"matmul_64x64x64","variant":"f32","ms":2.5,"tflops":1}\n{"task":"cut sho');
    const out = join(folder, "table");
    const table = await gpuTable({
      out,
      quick: true,
      // Ends long before; but the first to open a GPU without bounds checks judges its matrix units anew.
      budget: 110,
      torch,
      filter: "64x64x64",
      write: () => {},
    });
    const [checked, unchecked] = [table.checked!, table.unchecked!];
    expect(checked.head.unchecked).toBe(false);
    expect(unchecked.head.unchecked).toBe(true);
    for (const run of [checked, unchecked]) {
      const product = run.results.find((r) => r.name === "matmul_64x64x64 f32")!;
      expect(product.gflops! * (product.device_ms ?? product.ms!)).toBeCloseTo((2 * 64 ** 3) / 1e6, 6);
    }
    const text = readFileSync(join(out, "gpu_table.md"), "utf8");
    expect(text).toContain("| GEMM f32, largest | 46 TFLOP/s |");
    expect(text).toMatch(/\| matmul_64x64x64 f32 \|.*f32 2\.5 ms \([\d.]+ \/ [\d.]+ x\) \|/);
    expect(text.includes("SOFTWARE ADAPTER")).toBe(checked.head.software);
    if (checked.head.software) expect(text).not.toMatch(/, met|missed/);
    expect(JSON.parse(readFileSync(join(out, "gpu_table.json"), "utf8")).torch).toHaveLength(1);
  });

  it("say what the time did not suffice for, and write what there is", async () => {
    const out = join(folder, "nothing");
    const table = gpuTable({ out, quick: true, budget: 0.01, torch: "no_such.py", write: () => {} });
    await expect(table).rejects.toThrow(/no row could be timed: the time was over/);
    const text = readFileSync(join(out, "gpu_table.md"), "utf8");
    expect(text).toContain("- PyTorch: no_such.py is not there");
    expect(text).toContain("- everything checked: no row could be timed");
    expect(text).toContain("- everything unchecked: no row could be timed");
    const unknown = gpuTable({ out: join(folder, "none"), quick: true, filter: "matmull", write: () => {} });
    await expect(unknown).rejects.toThrow(/no row of the GPU table has "matmull" in its name/);
  });
});

describe("processes of rows", () => {
  /** A child that has these lines instead of a device. `work` is what it was asked for. */
  function script(name: string, body: string): string {
    const path = join(folder, `${name}.mjs`);
    const say = "const say = (line) => process.stdout.write(JSON.stringify(line) + '\\n');";
    writeFileSync(path, `const work = JSON.parse(process.argv[2]);\n${say}\n${body}\n`);
    return path;
  }
  const run = (options: Partial<RowsOptions>) =>
    runRows({
      quick: true,
      filter: "matmul_64x32x64",
      unchecked: false,
      until: performance.now() + 20_000,
      write: () => {},
      ...options,
    });
  const rest = `say({ head: {} });
    for (const row of ["matmul_64x32x64 f32", "matmul_64x32x64 f16"].filter((name) => !work.skip.includes(name)))`;

  it("go on without a first step that hangs", async () => {
    const hangs = script(
      "hangs",
      `if (work.first) { say({ begin: "first" }); setInterval(() => {}, 1000); }
       else { ${rest} say({ result: { name: row, ms: 1 } }); }`,
    );
    const done = await run({ filter: "", script: hangs, limits: { row: 9000, first: 800 } });
    expect(done.run.first_step).toBeUndefined();
    expect(done.leftOut[0]).toBe("first_step_tinyllm_32x1, cold (over 0.8 s)");
    expect(done.run.results).toHaveLength(2);
  });

  it("mark the row that loses the device, and go on in a new one", async () => {
    const loses = script(
      "loses",
      `${rest} {
        say({ begin: row });
        if (row.endsWith("f32")) throw new Error("the GPU device was lost: as a test");
        say({ result: { name: row, ms: 1 } });
      }`,
    );
    const done = await run({ script: loses });
    expect(done.run.results.map(({ name }) => name)).toEqual(["matmul_64x32x64 f16"]);
    expect(done.leftOut).toEqual(["matmul_64x32x64 f32 (Error: the GPU device was lost: as a test)"]);
  });

  it("give up where none can be started, with the reason", async () => {
    const none = script("none", 'throw new Error("no adapter here")');
    await expect(run({ script: none })).rejects.toThrow("no row could be timed: Error: no adapter here");
  });

  it("end at a lost device, and go on after any other failure", async () => {
    const row = (name: string, error: Error) =>
      ({
        name,
        task: name,
        role: name,
        unit: "GB/s",
        prepare: () => Promise.reject(error),
      }) as unknown as GpuRow;
    const time = async (rows: GpuRow[], lost: Promise<unknown>) => {
      const lines: RowLine[] = [];
      const device = { gpu: { lost } } as unknown as Parameters<typeof timeRows>[1];
      const roof = { gflops: 1, gb_per_s: 1 };
      const problem = await timeRows(rows, device, roof, 1, (line) => lines.push(line)).catch(
        (e: Error) => e,
      );
      return { problem, lines };
    };
    const never = new Promise(() => {});
    const wrong = row("wrong", new Error("out of memory\nand more"));
    const lost = row("lost", new KilnError("the GPU device was lost: x", { code: "device_lost" }));
    const both = await time([wrong, lost, wrong], never);
    expect(both.lines).toMatchObject([
      { begin: "wrong" },
      { result: { name: "wrong", error: "out of memory" } },
      { begin: "lost" },
    ]);
    expect(both.problem).toMatchObject({ code: "device_lost" });
    // The call that fails need not be the one that knows why.
    const soon = new Promise((resolve) => setTimeout(() => resolve({ reason: "unknown", message: "y" }), 20));
    const later = await time([wrong, wrong], soon);
    expect(later.lines).toEqual([{ begin: "wrong" }]);
    expect(later.problem).toMatchObject({ message: "the GPU device was lost: y", code: "device_lost" });
  });
});

describe("PyTorch's ruler", () => {
  it("is asked for what its compiler is needed for in a run of its own, last", () => {
    expect(taskRuns.at(-1)!.every((task) => task.startsWith("train"))).toBe(true);
    expect(taskRuns.slice(0, -1).flat().join()).not.toContain("train");
    const tasks = taskRuns.flat();
    const rulers = gpuRows().filter(({ task }) => !/A\^T B|A B\^T/.test(task));
    for (const { task } of rulers)
      expect(
        tasks.some((prefix) => task.startsWith(prefix)),
        task,
      ).toBe(true);
  });

  it("is stopped in time, and what it said until then is kept", async () => {
    const lines: TorchLine[] = [];
    const path = join(folder, "ruler.py");
    const program = `import sys, time
print('{"task":"' + sys.argv[1] + '","variant":"f32","ms":1}', flush=True)
time.sleep(60)`;
    writeFileSync(path, program);
    const problem = await runTorch(path, ["decode"], 4000, (line) => lines.push(line));
    if (problem?.includes("ENOENT")) return; // no python3 here
    expect(problem).toBe("stopped after its 4 s");
    expect(lines).toEqual([{ task: "decode", variant: "f32", ms: 1 }]);
    const earlier = join(folder, "earlier.jsonl");
    writeFileSync(earlier, `${JSON.stringify(lines[0])}\n{"task":"cut`);
    expect(readTorch(earlier)).toEqual(lines);
  });
});

/** A run on a GPU with these results. */
function gpuRun(results: Partial<GpuRun["results"][number]>[], first_ms = 1500): GpuRun {
  const roofline = { gflops: 60_000, gb_per_s: 4000 };
  const head = { software: false, unchecked: false, roofline } as unknown as GpuRun["head"];
  const filled = results.map((r) => ({ by: "kiln", unit: "GFLOP/s", precision: "f32", ...r }));
  const first_step = { cold_ms: 9000, warm_ms: first_ms };
  return { head, results: filled as GpuRun["results"], first_step };
}

describe("bars", () => {
  const find = (run: GpuRun, torch: TorchLine[], task: string, wanted: string) =>
    barsOf(run, torch).find((bar) => bar.task === task && bar.wanted === wanted)!;

  it("are met or missed by the figures that they are about", () => {
    const gemm = { role: "gemm largest f32", task: "matmul_x", ms: 9, device_ms: 3, gflops: 45_800 };
    const run = gpuRun([
      gemm,
      { role: "gemm transformer f32", ms: 1, gflops: 40_000 },
      { role: "gemm transformer A^T B f32", ms: 1, gflops: 30_000 },
      { role: "rows softmax large", ms: 1, gb_per_s: 3300 },
      { role: "attention forward f32", ms: 1, gflops: 20_000 },
      // Forward 1 ms at 20 TFLOP/s is 2 of 7 products: the other 5 take 50 TFLOP in 4 ms.
      { role: "attention both f32", ms: 5, gflops: 14_000 },
      { role: "train gpt2 f32", task: "train", ms: 100, gflops: 1 },
      { role: "train gpt2 f16", task: "train", ms: 90, gflops: 1 },
    ]);
    const torch = [
      { task: "matmul_x", variant: "f32", ms: 2.75 },
      { task: "train", variant: "f32 eager", ms: 120 },
      { task: "train", variant: "bf16 amp compiled", ms: 40 },
    ];
    expect(find(run, torch, "GEMM f32, largest", "46 TFLOP/s").met).toBe(false);
    expect(find(run, torch, "GEMM f32, largest", "0.9 of cuBLAS f32")).toMatchObject({
      met: true,
      found: "0.917 x",
    });
    expect(find(run, torch, "GEMM transformer f32", "80 % of the largest").met).toBe(true);
    expect(find(run, torch, "GEMM transformer A^T B f32", "80 % of the largest").met).toBe(false);
    expect(find(run, torch, "softmax, large", "80 % of the copy").met).toBe(true);
    expect(find(run, torch, "attention forward f32", "40 % of the GEMM").met).toBe(true);
    const backward = find(run, torch, "attention backward f32", "30 % of the GEMM");
    expect(backward).toMatchObject({ met: false, found: "27 %" });
    expect(find(run, torch, "train gpt2 f32", "1 x f32 eager").met).toBe(true);
    expect(find(run, torch, "train gpt2 f32", "0.5 x bf16 amp compiled").met).toBe(false);
    expect(find(run, torch, "train gpt2 f16", "1 x f32 eager").met).toBe(true);
    expect(find(run, torch, "train gpt2 f16", "0.5 x bf16 amp compiled").met).toBe(false);
    expect(find(run, torch, "first step of TinyLLM, warm cache", "under 2 s").met).toBe(true);
    expect(find(run, torch, "train gpt2 f32", "1 x tf32 eager")).toMatchObject({ found: null, met: null });
    // What was not measured is a bar all the same.
    const decode = find(run, torch, "decode tinyllm f16 128", "5 x transformers generate f16");
    expect(decode).toMatchObject({ found: null, met: null });
  });

  it("are shown with one run alone, kernels without timestamps by name", () => {
    const unchecked = gpuRun([
      { name: "product", task: "x", role: "gemm largest f32", kernel: true, ms: 3, gflops: 47_000 },
    ]);
    unchecked.head.adapter = { toggles: [] } as unknown as GpuRun["head"]["adapter"];
    unchecked.head.load = 0;
    const table = { checked: null, unchecked, torch: [], left_out: ["everything checked: no"], seconds: 1 };
    const text = renderTable(table);
    expect(text).toContain("| GEMM f32, largest | 46 TFLOP/s | not measured | 47.0 TFLOP/s, met |");
    expect(text).toContain("| product | - |  |  | 3.000 (wall) | 47.0 TFLOP/s |");
    expect(text).toContain("- everything checked: no");
  });

  it("are neither on a software adapter", () => {
    const run = gpuRun([{ role: "gemm largest f32", ms: 1, gflops: 99_000 }]);
    run.head.software = true;
    expect(barsOf(run, []).map(({ met }) => met)).not.toContain(true);
  });
});

describe("history", () => {
  it("keeps apart what may not be compared", () => {
    const adapter = { driver: "hardware", description: "A", toggles: ["+a", "+b"] };
    const key = (changes: object) =>
      historyKey({ adapter: { ...adapter, ...changes } } as unknown as BenchReport);
    expect(key({ toggles: ["+b", "+a"] })).toBe(key({}));
    expect(key({ toggles: ["+a", "+b", "+disable_robustness"] })).not.toBe(key({}));
    expect(key({ description: "A, newer driver" })).not.toBe(key({}));
    expect(key({ driver: "browser" })).not.toBe(key({}));
  });

  it("knows the commit", () => {
    onTestFinished(() => void vi.unstubAllEnvs());
    vi.stubEnv("KILN_COMMIT", "");
    expect(commit()).toMatch(/^([0-9a-f]{7,}(\+changes)?|unknown)$/);
    vi.stubEnv("KILN_COMMIT", "brought");
    expect(commit()).toBe("brought");
  });
});

describe("page", () => {
  const recorded = new URL("../bench/history/", import.meta.url);

  it("has one section for each set of toggles, runs in order, and marks processors' figures", async () => {
    const [run] = await readHistory(recorded);
    const later = { ...run!, date: "2027-01-02T03:04:05Z", commit: "later" };
    const toggles = [...run!.adapter.toggles, "+disable_robustness"];
    const unchecked = { ...run!, unchecked: true, adapter: { ...run!.adapter, toggles } };
    const [first, second, ...none] = sections([run!, later, unchecked]);
    expect(none).toEqual([]);
    expect(first.runs).toEqual([run, later]);
    expect(first.facts.join()).toContain("commit later");
    expect([first.software, second.facts[0]]).toEqual([true, expect.stringContaining("checks off")]);
  });

  it("draws every row of every recorded run in a browser, and needs nothing from elsewhere", async (context) => {
    const path = await writePage(join(folder, "page", "bench.html"), recorded);
    const browser = await launchChromium().catch((error) => context.skip((error as Error).message));
    try {
      const page = await browser!.newPage({ viewport: { width: 390, height: 800 }, locale: "en-US" });
      const problems: string[] = [];
      page.on("pageerror", ({ message }) => problems.push(message));
      page.on("request", (request) => request.url() === `file://${path}` || problems.push(request.url()));
      await page.goto(`file://${path}`);
      for (const { title, runs } of sections(await readHistory(recorded))) {
        const section = page.locator("section", { hasText: title });
        for (const { name, by, ms } of runs.at(-1)!.results) {
          if (ms === undefined) continue;
          const figure = section.locator(`figure[data-row="${name}"]`);
          expect(await figure.locator("canvas").count(), name).toBe(1);
          expect(await figure.textContent()).toContain(by.split(" ")[0]);
        }
        const ink = await section.locator("[data-plot=roofline] canvas").evaluate((canvas) => {
          const { width, height } = canvas as HTMLCanvasElement;
          const { data } = (canvas as HTMLCanvasElement).getContext("2d")!.getImageData(0, 0, width, height);
          return data.some((value) => value > 0);
        });
        expect(ink).toBe(true);
      }
      expect(await page.evaluate("document.documentElement.scrollWidth"), "fits a phone").toBe(390);
      expect(problems).toEqual([]);
    } finally {
      await browser?.close();
    }
  });
});

describe("peers", () => {
  it("answer row by row from one process, or say in one line why not", async () => {
    const peers = new Peers();
    try {
      for (const size of [32, 48]) {
        const answers = await peers.time({ op: "matmul", sizes: [size, size, size] }, 20);
        expect(answers.length).toBe(Peers.having("matmul").length);
        for (const { by, timing, error } of answers) {
          expect(timing?.ms ?? error, by).toBeTruthy();
          expect(error ?? "", by).not.toContain("\n");
        }
      }
    } finally {
      peers.close();
    }
  }, 60_000);
});
