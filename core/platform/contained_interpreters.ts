import { execFileSync } from "node:child_process";
import { realpathSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { pathToFileURL } from "node:url";
import { KilnError } from "../errors.ts";
import { javaScriptGuard, pythonGuard } from "./contained_guards.ts";
import { pyodideGuard, quickJsGuard } from "./contained_wasm.ts";

export type Language = "python" | "javascript";

/** Ways to contain a program. What the last does is also in force inside the first. */
export type Tier = "namespaces" | "wasm" | "interpreter";

/** What runs the programs of a language, and how it is started. */
export interface Interpreter {
  /** For people. */
  name: string;
  executable: string;
  /** Arguments that run the guard in a scratch folder. */
  arguments(scratch: string, memoryBytes: number): string[];
  /** What it must be able to read beside the system's programs. */
  reads: string[];
  /** A program that passes only where a write outside and a connection are refused. */
  probe: string;
  /** Memory that it takes beside the program's. */
  ownBytes?: number;
}

/** The interpreters of a language in a tier, the best first; each throws `interpreter_missing` where it is not installed. */
export function interpretersOf(language: Language, tier: Tier): readonly (() => Interpreter)[] {
  if (language === "javascript") return tier === "wasm" ? [quickJs] : [node];
  return { namespaces: [python3, pyodide], wasm: [pyodide], interpreter: [python3] }[tier];
}

const mebi = 2 ** 20;
const require = createRequire(import.meta.url);

/** Node with its permission model, in which a guard may read some folders. */
function nodeWith(guard: string, heapBytes: number, reads: readonly string[], more: string[]): string[] {
  const flags = process.allowedNodeEnvironmentFlags;
  const permission = ["--permission", "--experimental-permission"].find((name) => flags.has(name));
  return [
    // Without any it refuses nothing, and the probe fails.
    ...(permission ? [permission, ...reads.map((folder) => `--allow-fs-read=${folder}/*`), ...more] : []),
    ...(flags.has("--experimental-sqlite") ? ["--no-experimental-sqlite"] : []),
    `--max-old-space-size=${Math.ceil(heapBytes / mebi)}`,
    ...["--no-warnings", "-e", guard],
  ];
}

function node(): Interpreter {
  return {
    name: "Node",
    executable: process.execPath,
    reads: [realpathSync(process.execPath)],
    arguments: (scratch, memoryBytes) =>
      nodeWith(javaScriptGuard, memoryBytes, [scratch], [`--allow-fs-write=${scratch}/*`]),
    probe: `
      const refused = (work) => assert.throws(work, { code: "ERR_ACCESS_DENIED" });
      refused(() => fs.writeFileSync(path.resolve("../kiln-probe"), ""));
      refused(() => net.connect(9, "127.0.0.1"));`,
  };
}

/** Files of an optional package. */
function installed(name: string, language: string): string {
  try {
    return realpathSync(require.resolve(name));
  } catch (cause) {
    throw new KilnError(`${language} in WebAssembly needs a package that is not here: npm install ${name}`, {
      code: "interpreter_missing",
      cause,
    });
  }
}

function quickJs(): Interpreter {
  const [core, variant] = ["quickjs-emscripten-core", "@jitl/quickjs-wasmfile-release-sync"].map((name) =>
    installed(name, "JavaScript"),
  );
  // Each has its files in `dist`, and needs its package.json; the third has the types of both.
  const folders = [core, variant, createRequire(variant).resolve("@jitl/quickjs-ffi-types")];
  return {
    name: "QuickJS",
    executable: process.execPath,
    reads: [],
    arguments: (_, memoryBytes) =>
      nodeWith(
        quickJsGuard(core, variant),
        memoryBytes,
        folders.map((file) => dirname(dirname(realpathSync(file)))),
        ["--disallow-code-generation-from-strings"],
      ),
    probe: `
      if (typeof process + typeof fetch + typeof WebAssembly !== "undefined".repeat(3)) throw new Error("the host is seen");`,
    ownBytes: 256 * mebi,
  };
}

function python3(): Interpreter {
  const ask = "import os, sys; print(os.path.realpath(sys.executable), sys.base_prefix, sep='\\n')";
  let answer: string;
  try {
    answer = execFileSync("python3", ["-I", "-c", ask], {
      encoding: "utf8",
      stdio: ["ignore", "pipe", "ignore"],
    });
  } catch (cause) {
    throw new KilnError(
      "there is no python3 on the PATH, which these programs need; install Python 3.8 or later, or npm install pyodide",
      { code: "interpreter_missing", cause },
    );
  }
  const [executable, prefix] = answer.trim().split(/\r?\n/);
  return {
    name: "python3",
    executable,
    reads: [executable, prefix],
    arguments: () => ["-I", "-B", "-c", pythonGuard],
    probe: pythonProbe,
  };
}

function pyodide(): Interpreter {
  const folder = dirname(installed("pyodide", "Python"));
  return {
    name: "Pyodide",
    executable: process.execPath,
    reads: [realpathSync(process.execPath), folder],
    arguments: (_, memoryBytes) =>
      nodeWith(
        pyodideGuard(pathToFileURL(join(folder, "pyodide.mjs")).href, folder, memoryBytes),
        memoryBytes + 256 * mebi,
        [folder],
        ["--disallow-code-generation-from-strings"],
      ),
    // The hook's refusals, and what holds where it is undone: no code from texts, no files of the host.
    probe: `${pythonProbe}
import pyodide_js
from pyodide.ffi import to_js, JsException
for work in (lambda: to_js([1]).constructor.constructor("return 1")(), lambda: pyodide_js.mountNodeFS("/mnt/host", "/")):
    try:
        work()
    except JsException:
        continue
    raise AssertionError("the host is seen")`,
    ownBytes: 512 * mebi,
  };
}

const pythonProbe = `
import socket
def refused(work):
    try:
        work()
    except PermissionError:
        return
    raise AssertionError("nothing is refused")
refused(lambda: open("../kiln-probe", "w"))
refused(lambda: socket.create_connection(("127.0.0.1", 9), 1))`;
