import { execFile } from "node:child_process";
import { readdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, expect, it } from "vitest";
import { type Contained, type Language, openContained, type Tier } from "../core/platform/contained.ts";
import { openAttacked } from "./support/attacked.ts";
import { undonePython } from "./support/undone_python.ts";

// The table of bench/README.md: what becomes of the same attacks in each tier that runs here. What is refused one by one, with all
// its spellings, stands in contained.slow.test.ts.

const seconds = 1;
const attacked = await openAttacked("from a file");
const { outside, secret, port } = attacked;

beforeAll(() => {
  process.env.KILN_TEST_CANARY = "from the environment";
});
afterAll(() => {
  delete process.env.KILN_TEST_CANARY;
  attacked.close();
});

/** Programs that end, or are ended, each by itself. */
const ends: Record<string, Record<Language, string>> = {
  "an endless loop": { javascript: "for (;;);", python: "while True: pass" },
  "waits for ever": { javascript: "setInterval(() => {}, 1000)", python: "import time\ntime.sleep(99)" },
  "takes memory without end": {
    javascript: "const a = []; for (;;) a.push(new Array(1e6).fill(a.length + 0.5))",
    python: "a = []\nwhile True: a.append(bytearray(10 ** 7))",
  },
  "writes output without end": {
    javascript: 'for (;;) console.log("x".repeat(10000))',
    python: 'while True: print("x" * 10000)',
  },
  "fills the disk": {
    javascript:
      'const f = require("fs").openSync("big", "w"); for (;;) require("fs").writeSync(f, "x".repeat(1e6))',
    python: 'f = open("big", "wb")\nwhile True: f.write(bytes(10 ** 6))',
  },
  "leaves as if it had passed": { javascript: "process.exit(0)", python: "import os\nos._exit(0)" },
};

/** What a program must not get; all in one program, which writes a line for each: "held", or what it got. */
const attempts: Record<Language, Record<string, string>> = {
  javascript: {
    "reads a file outside": 'require("fs").readFileSync("SECRET", "utf8")',
    "writes a file outside": 'require("fs").writeFileSync("OUTSIDE/left", "")',
    "finds secrets in its environment": 'process.env.KILN_TEST_CANARY ?? hold("none")',
    connects: 'require("net").connect(PORT, "127.0.0.1")',
    "fork bomb": 'for (;;) require("child_process").spawn(process.execPath, ["-e", "for (;;);"])',
    "ends its parent": "process.kill(process.ppid, 9)",
    "gets at the host by a constructor":
      "[].constructor.constructor(\"return process.binding('spawn_sync')\")()",
  },
  python: {
    "reads a file outside": 'open("SECRET").read()',
    "writes a file outside": 'open("OUTSIDE/left", "w")',
    "finds secrets in its environment": 'os.environ["KILN_TEST_CANARY"]',
    connects: 'socket.create_connection(("127.0.0.1", PORT)).recv(1)',
    "fork bomb": "bomb()",
    "ends its parent": "os.kill(RUNNER, 9)",
    "gets at the host by a constructor":
      '__import__("pyodide.ffi").ffi.to_js([1]).constructor.constructor("return process.pid")()',
  },
};

const program = (language: Language, names = Object.keys(attempts[language])): string => {
  const list = JSON.stringify(names.map((name) => [name, attempts[language][name]]));
  const filled = list
    .replaceAll("SECRET\\", `${secret}\\`)
    .replaceAll("OUTSIDE", outside)
    .replaceAll("PORT", String(port))
    .replaceAll("RUNNER", String(process.pid));
  if (language === "javascript")
    return `const hold = (why) => { throw new Error(why); };
for (const [name, code] of ${filled}) {
  let line = "held";
  try { line = "got " + (0, eval)("(function (require, hold) { " + code.replace(/^(?!for)/, "return ") + " })")(require, hold); } catch (error) {}
  console.log(JSON.stringify([name, line]));
}`;
  return `import os, socket, time, json
def bomb():
    for each in range(400):
        if os.fork() == 0:
            time.sleep(20)
            os._exit(0)
for name, code in json.loads(${JSON.stringify(filled)}):
    line = "held"
    try: line = "got %r" % (eval(code),)
    except BaseException as error: pass
    print(json.dumps([name, line]), flush=True)`;
};

/** What each line of its output says an attempt came to. */
const told = (output: string) =>
  output
    .split("\n")
    .filter((line) => line.startsWith("["))
    .map((line) => JSON.parse(line) as [string, string]);

const columns: [language: Language, tier: Tier, engine: string, undone: boolean][] = [
  ["python", "wasm", "Pyodide", true],
  ["python", "namespaces", "python3", true],
  ["python", "interpreter", "python3", false],
  ["javascript", "namespaces", "Node", false],
  ["javascript", "wasm", "QuickJS", false],
  ["javascript", "interpreter", "Node", false],
];
const rows = [...Object.keys(ends), ...Object.keys(attempts.python)];

/** What each attack came to. */
async function column(contained: Contained, language: Language, isUndone: boolean) {
  const cells = new Map<string, string>();
  const limits = { memoryBytes: 2 ** 27, outputBytes: 64_000, endFlood: true };
  const run = (text: string, time = seconds) => contained.run(text, { ...limits, seconds: time });
  if (!isUndone)
    for (const [name, { [language]: text }] of Object.entries(ends)) {
      const { outcome, milliseconds } = await run(text, name.includes("memory") ? 20 : seconds);
      cells.set(name, `${outcome}, ${(milliseconds / 1000).toFixed(1)} s`);
    }
  const { output, outcome, message } = await run((isUndone ? undonePython : "") + program(language), 20);
  for (const [name, what] of told(output)) cells.set(name, what);
  expect(`${outcome} ${message}`, output).toMatch(/^passed/);
  return cells;
}

it.each([["javascript", process.execPath, "-e"] as const, ["python", "python3", "-c"] as const])(
  "attempts in %s succeed where nothing holds them",
  async (language, command, flag) => {
    const names = [
      "reads a file outside",
      "writes a file outside",
      "finds secrets in its environment",
      "connects",
    ];
    const { stdout } = await promisify(execFile)(command, [flag, program(language, names)]).catch((error) => {
      if (error.code === "ENOENT") return { stdout: "" };
      throw error;
    });
    for (const [name, what] of told(stdout)) expect(what, name).toMatch(/^got/);
    await expect.poll(() => attacked.connections()).toBe(stdout === "" ? 0 : 1);
    rmSync(join(outside, "left"), { force: true });
  },
);

it("every tier that runs here holds", { timeout: 400_000 }, async () => {
  const table = await Promise.all(
    [0, 1].map(async (half) => {
      const found: [string, Map<string, string>][] = [];
      for (const [i, [language, tier, engine, undone]] of columns.entries()) {
        // Pyodide takes as long as all others.
        if (i > 0 !== half > 0) continue;
        const contained = await openContained(language, [tier]).catch((error: Error) => {
          console.warn(`${engine}, ${tier}: skipped, ${error.message}`);
          return null;
        });
        // The tier of namespaces has another interpreter where there is no python3.
        if (!contained?.text.includes(`by ${engine} `)) continue;
        found.push([`${engine}, ${tier}`, await column(contained, language, false)]);
        if (undone)
          found.push([`${engine}, ${tier}, refusals undone`, await column(contained, language, true)]);
      }
      return found;
    }),
  );
  const all = table.flat();
  const line = (cells: readonly string[]) => `| ${cells.join(" | ")} |`;
  const head = line(["attack", ...all.map(([title]) => title)]);
  const body = rows.map((row) => line([row, ...all.map(([, cells]) => cells.get(row) ?? "")]));
  console.log([head, line(["---", ...all.map(() => "---")]), ...body].join("\n"));

  expect(all.length).toBeGreaterThanOrEqual(2);
  for (const [title, cells] of all)
    for (const [row, cell] of cells) {
      const where = `${title}: ${row}`;
      if (row in attempts.python) expect(cell, where).toBe("held");
      else expect(cell, where).not.toMatch(/^passed/);
      if (row === "an endless loop" || row === "waits for ever") expect(cell, where).toMatch(/^timeout/);
      if (row === "takes memory without end") expect(cell, where).toMatch(/^memory/);
      if (row === "writes output without end") expect(cell, where).toMatch(/^output/);
    }
  expect(attacked.connections()).toBe(0);
  expect(readdirSync(outside)).toEqual(["secret.txt"]);
  expect(readFileSync(secret, "utf8")).toBe("from a file");
});
