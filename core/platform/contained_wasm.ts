import { nodeEnds, nodeRefusals, pythonGuard } from "./contained_guards.ts";

// Guards whose interpreter is WebAssembly: a program reaches nothing but that interpreter's own memory, and what holds it
// where that fails is Node's permission model around it. Neither may make code from texts (`--disallow-code-generation-from-strings`).

/** Bounds what an interpreter's memory grows to; it then has no more to give, and its program an error. */
const boundMemory = (bytes: number): string => `
  const grow = WebAssembly.Memory.prototype.grow;
  WebAssembly.Memory.prototype.grow = function (pages) {
    if (this.buffer.byteLength + pages * 65536 > ${bytes}) throw new RangeError("Array buffer allocation failed");
    return grow.call(this, pages);
  };`;

/**
 * What QuickJS may take: 32 MiB above the 16 that it begins with. Its own limit of memory counts blocks without their sizes
 * here, so that a program got 2 GiB. A stack of 512 KB overflows the host's own.
 */
const quickJsLimits = { memory: 48 * 2 ** 20, stack: 2 ** 17, milliseconds: 1000 };

/** What a JavaScript program finds beside the language; `write` is the only way out. */
const quickJsPrelude = String.raw`((write, later, never) => {
  const key = (name) => (/^[\w$]+$/.test(name) ? name : JSON.stringify(name));
  const list = (open, parts, close) => (parts.length ? open + " " + parts.join(", ") + " " + close : open + close);
  const show = (value, above = []) => {
    if (typeof value === "string") return above.length ? "'" + value + "'" : value;
    if (typeof value === "bigint") return value + "n";
    if (typeof value === "function") return "[Function: " + (value.name || "(anonymous)") + "]";
    if (typeof value !== "object" || value === null) return Object.is(value, -0) ? "-0" : String(value);
    if (value instanceof Error) return value.name + ": " + value.message;
    if (value instanceof Date || value instanceof RegExp) return value instanceof Date ? value.toJSON() : String(value);
    if (above.includes(value)) return "[Circular]";
    if (above.length > 3) return Array.isArray(value) ? "[Array]" : "[Object]";
    const inner = [...above, value];
    const each = (item) => show(item, inner);
    if (Array.isArray(value) || ArrayBuffer.isView(value)) return list("[", Array.from(value, each), "]");
    if (value instanceof Map) return list("Map(" + value.size + ") {", Array.from(value, ([k, v]) => each(k) + " => " + each(v)), "}");
    if (value instanceof Set) return list("Set(" + value.size + ") {", Array.from(value, each), "}");
    const own = Object.keys(value).map((name) => key(name) + ": " + each(value[name]));
    const { name } = Object.getPrototypeOf(value)?.constructor ?? {};
    return list((name && name !== "Object" ? name + " " : "") + "{", own, "}");
  };
  const print = (fd) => (...values) => write(fd, values.map((value) => show(value)).join(" ") + "\n");
  const [log, error] = [print(1), print(2)];
  const assert = (value, ...message) => {
    if (!value) throw Object.assign(new Error(message.join(" ") || "assertion failed"), { name: "AssertionError" });
  };
  const timer = (again) => (work, milliseconds = 0, ...values) => later(() => work(...values), Number(milliseconds) || 0, again);
  Object.assign(globalThis, {
    ...{ console: { log, info: log, debug: log, dir: log, table: log, error, warn: error, trace: error, assert } },
    ...{ setTimeout: timer(false), setInterval: timer(true), setImmediate: (...all) => timer(false)(all[0], 0, ...all.slice(1)) },
    ...{ clearTimeout: never, clearInterval: never, clearImmediate: never },
    queueMicrotask: (work) => void Promise.resolve().then(work),
    ...{ module: { exports: {} }, exports: {} },
    require: (name) => {
      throw new Error("there are no modules in QuickJS, so no " + name);
    },
  });
})`;

/** Runs a JavaScript program in QuickJS, given the folders of its two packages. */
export const quickJsGuard = (core: string, variant: string): string => String.raw`{
  const load = () => [${JSON.stringify(core)}, ${JSON.stringify(variant)}].map(require);
  const [{ newQuickJSWASMModuleFromVariant }, found] = load();
  ${boundMemory(quickJsLimits.memory)}
  ${nodeRefusals}
  ${nodeEnds}
  if (!process.permission || process.permission.has("fs.write")) throw new Error("Node's permission model is not in force");
  const source = fs.readFileSync(0, "utf8");
  const { stack, milliseconds } = ${JSON.stringify(quickJsLimits)};
  const main = async () => {
    const quickJs = await newQuickJSWASMModuleFromVariant(found.default ?? found);
    const runtime = quickJs.newRuntime({ maxStackSizeBytes: stack });
    const guest = runtime.newContext();
    let busy = 0;
    let since = 0;
    // Of its own work: what it waits for is the runner's to end.
    runtime.setInterruptHandler(() => since > 0 && busy + performance.now() - since > milliseconds);
    const failed = (handle) => {
      const error = guest.dump(handle);
      const text = error?.message === undefined ? String(error) : error.name + ": " + error.message;
      if (text === "InternalError: interrupted") ends("timeout", "it worked longer than " + milliseconds / 1000 + " s");
      if (text === "InternalError: out of memory" || error === null) ends("memory", text);
      ends(error?.name === "AssertionError" ? "assertion" : error?.name === "SyntaxError" && since === 0 ? "syntax" : "error", text);
    };
    const value = (result) => (result.error ? failed(result.error) : result.value);
    const work = (begin) => {
      since = performance.now();
      const result = value(begin());
      const left = runtime.executePendingJobs();
      if (left.error) failed(left.error);
      busy += performance.now() - since;
      return result;
    };
    const timers = new Map();
    const out = { write: (fd, text) => void writeSync(guest.getNumber(fd), guest.getString(text)) };
    out.later = (call, wait, again) => {
      const [own, time] = [call.dup(), guest.getNumber(wait)];
      const ring = () => work(() => guest.callFunction(own, guest.undefined));
      const timer = guest.dump(again) ? setInterval(ring, time) : setTimeout(ring, time);
      timers.set(timers.size + 1, timer);
      return guest.newNumber(timers.size);
    };
    out.never = (timer) => void clearTimeout(timers.get(guest.dump(timer)));
    const ways = Object.entries(out).map(([name, way]) => guest.newFunction(name, way));
    value(guest.callFunction(value(guest.evalCode(${JSON.stringify(quickJsPrelude)})), guest.undefined, ...ways));
    value(guest.evalCode(source, "program.js", { compileOnly: true }));
    process.on("beforeExit", () => ends("passed"));
    writeSync(3, "begins\n");
    const last = work(() => guest.evalCode(source, "program.js"));
    // A promise that is the program's last value is one that nobody else waits for.
    process.prependListener("beforeExit", () => {
      const state = guest.getPromiseState(last);
      if (state.type === "rejected") failed(state.error);
    });
  };
  main().catch(fails);
}`;

/** Runs a Python program in Pyodide, given the address of its module, its folder and what its memory may grow to. */
export const pyodideGuard = (url: string, folder: string, memoryBytes: number): string => String.raw`{
  // Pyodide asks for the constants of files, which the permission model would refuse with all other bindings.
  const { constants } = require("node:fs");
  Object.defineProperty(process, "binding", { value: () => ({ fs: constants }), configurable: true, writable: true });
  ${boundMemory(memoryBytes)}
  const main = async () => {
    const { loadPyodide } = await import(${JSON.stringify(url)});
    // Without a global object of JavaScript: by its own, "import js" would be the host.
    const python = await loadPyodide({ jsglobals: Object.create(null), env: {}, indexURL: ${JSON.stringify(folder)} });
    ${nodeRefusals}
    ${nodeEnds}
    if (!process.permission || process.permission.has("fs.write")) throw new Error("Node's permission model is not in force");
    process.on("uncaughtException", fails);
    const source = fs.readFileSync(0);
    let given = false;
    python.setStdin({ stdin: () => (given ? null : ((given = true), source)) });
    const to = (fd) => ({ write: (bytes) => writeSync(fd, bytes), isatty: false });
    python.setStdout(to(1));
    python.setStderr(to(2));
    const { FS } = python;
    const device = FS.makedev(64, 0);
    FS.registerDevice(device, {
      open() {},
      close() {},
      write: (_, bytes, from, length) => writeSync(3, bytes, from, length),
    });
    FS.mkdev("/dev/report", 0o222, device);
    if (FS.open("/dev/report", "w").fd !== 3) throw new Error("the report is not the fourth file");
    try {
      python.runPython(${JSON.stringify(pythonGuard)});
    } catch (error) {
      // What it refuses is fatal to Pyodide, as is leaving; a report that is there already counts.
      error?.code === "ERR_ACCESS_DENIED" ? fails(error) : ends(/out of memory|MemoryError/.test(error?.message) ? "memory" : "exit", String(error?.message ?? error).trim().split("\n").at(-1));
    }
  };
  main().catch((error) => {
    console.error(String(error?.stack ?? error));
    process.exit(1);
  });
}`;
