import { spawnSync } from "node:child_process";
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import ts from "typescript";
import { afterAll, describe, expect, it } from "vitest";
import { apiText, createProgram, doors } from "../bin/api.ts";

/**
 * What the documentation shows of the library: every block that imports kiln and every file of docs/examples is type-checked
 * and run, all in one process; docs/api.md is what the docstrings say.
 */
const root = fileURLToPath(new URL("..", import.meta.url));
const examples = readdirSync(path.join(root, "docs/examples")).map((name) =>
  path.join(root, "docs/examples", name),
);
const pages = ["README.md", ...readdirSync(path.join(root, "docs")).map((name) => `docs/${name}`)].filter(
  (name) => name.endsWith(".md"),
);
const folder = path.join(root, `runs/docs-${process.pid}`);
mkdirSync(folder, { recursive: true });
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const blocks = pages.flatMap((page) =>
  [...readFileSync(path.join(root, page), "utf8").matchAll(/```(js|ts)\n([\s\S]*?)```/g)]
    .filter(([, , text]) => /from "kiln["/]/.test(text))
    .map(([, language, text], i) => {
      const file = path.join(folder, `${page.replace(/\W/g, "_")}_${i}_${language}.ts`);
      writeFileSync(file, text);
      return file;
    }),
);
const files = [...examples, ...blocks];
/** Examples that tests of their own run, and look closer at what they print. */
const elsewhere =
  /examples.(compression|federated_lora|feedback_lora|fused_features|multilingual_bytes|private_sgd|transfer_logits)\.ts$/;
const runHere = files.filter((file) => !elsewhere.test(file));
/** JavaScript is run only: it has no types to be checked. */
const typed = files.filter((file) => !file.endsWith("_js.ts"));
const program = createProgram(files, { noUnusedLocals: false });

/** Runs files one after the other; what each printed. */
function runAll(): Map<string, string> {
  const urls = JSON.stringify(runHere.map((file) => pathToFileURL(file).href));
  const script = `for (const url of ${urls}) { await import(url); console.log("\\n<end>"); }`;
  const { stdout, stderr } = spawnSync(
    process.execPath,
    ["--import", import.meta.resolve("tsx"), "--input-type=module", "-e", script],
    {
      cwd: folder, // some write files
      encoding: "utf8",
      env: { ...process.env, TSX_TSCONFIG_PATH: path.join(root, "tsconfig.json") },
    },
  );
  const printed = stdout.split("\n<end>\n");
  // The one after the last that ended is where it stopped.
  if (printed.length <= runHere.length) printed[printed.length - 1] += `did not end: ${stderr}`;
  return new Map(runHere.map((file, i) => [file, printed[i] ?? "was not reached"]));
}

describe("documentation of the library", () => {
  it("has examples and blocks", () => {
    expect(examples.length).toBeGreaterThan(1);
    expect(blocks.some((file) => file.includes("README"))).toBe(true);
  });

  it("compiles", () => {
    const found = typed.flatMap((file) => ts.getPreEmitDiagnostics(program, program.getSourceFile(file)));
    const lines = found.map(
      ({ file, messageText }) => `${file?.fileName}: ${ts.flattenDiagnosticMessageText(messageText, "\n")}`,
    );
    expect(lines).toEqual([]);
  });

  it("runs, and prints the numbers that its comments say", () => {
    const printed = runAll();
    for (const [file, text] of printed) {
      expect(text, file).not.toMatch(/did not end|was not reached/);
      const source = readFileSync(file, "utf8");
      // A block that only exports is for a program with a server.
      if (/console\.|stdout/.test(source)) expect(text.trim(), file).not.toBe("");
      else expect(source, file).toMatch(/^export /m);
      for (const [, numbers] of source.matchAll(/console\.log\(.*\/\/ ([-\d. ]+)$/gm)) {
        expect(text, file).toContain(numbers);
      }
    }
  });

  it("keeps docs/api.md up to date: run npm run docs", () => {
    // A program of its own, as the command has: unions are in the order in which the compiler meets their members.
    expect(readFileSync(path.join(root, "docs/api.md"), "utf8")).toBe(apiText(createProgram()));
  });

  it("exports no internals of kernels from the root", () => {
    const checker = program.getTypeChecker();
    const module = checker.getSymbolAtLocation(program.getSourceFile(path.join(root, doors[0][1]))!)!;
    const names = checker.getExportsOfModule(module).map(({ name }) => name);
    expect(names.length).toBeGreaterThan(100);
    expect(
      names.filter((name) => /Op$|Step$|Samples$|Backward$|Attrs$|^fused|^suits|^paged/.test(name)),
    ).toEqual([]);
  });
});
