import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import path from "node:path";
import type { Readable, Writable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { packageRoot } from "../../../core/platform/package_node.ts";
import type { Read } from "./extract.ts";
import { Unreadable } from "./extracted.ts";

/** What reading a file may take. */
export interface ReadLimits {
  /** Of processor time. */
  readonly seconds: number;
  readonly heapBytes: number;
  /** Of what was read, as JSON. */
  readonly outputBytes: number;
}

const defaults: ReadLimits = { seconds: 60, heapBytes: 512 * 2 ** 20, outputBytes: 64 * 2 ** 20 };
/** All memory that is written, over the heap's bound: buffers are outside of it. */
const BUFFERS = 3;
/** Waiting is no processor time: a process that does neither is ended after this many times the limit. */
const WALL = 3;

/**
 * Reads a file in a process of its own: parsers are large, old and given what strangers made. It gets the bytes alone, on its
 * standard input, with an empty environment; where Linux allows it, in a namespace without a network.
 *
 * @throws Unreadable with a sentence for the person who gave the file
 */
export async function readContained(
  bytes: Readable,
  name: string,
  { signal, ...asked }: Partial<ReadLimits> & { signal?: AbortSignal | undefined } = {},
): Promise<Read> {
  const limits = { ...defaults, ...asked };
  const child = start(name, limits);
  const kill = () => void end(child);
  const timer = setTimeout(kill, limits.seconds * WALL * 1000);
  signal?.addEventListener("abort", kill);
  try {
    const [, errors, answer] = child.stdio.slice(1) as [unknown, Readable, Readable];
    const [text, said] = [collect(answer, limits.outputBytes, kill), collect(errors, 16_384)];
    // One that refuses the file early closes its input.
    const fed = pipeline(bytes, child.stdin as Writable).then(
      () => null,
      (error: NodeJS.ErrnoException) => error,
    );
    const [code, how] = await new Promise<[number | null, string | null]>((resolve, reject) => {
      child.once("error", reject).once("close", (status, by) => resolve([status, by]));
    });
    const failed = await fed;
    signal?.throwIfAborted();
    const gaveUp = failed && failed.code !== "EPIPE" && failed.code !== "ERR_STREAM_PREMATURE_CLOSE";
    if (gaveUp) throw failed;
    if (code === 0) return parsed(await text);
    throw new Unreadable(why(code, how, await said, limits));
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", kill);
  }
}

function parsed(line: string): Read {
  const { read, refused } = JSON.parse(line) as { read?: Read; refused?: string };
  if (read === undefined) throw new Unreadable(refused ?? "the file could not be read");
  return read;
}

function why(code: number | null, signal: string | null, said: string, limits: ReadLimits): string {
  if (/out of memory|allocation failed|memory allocation/i.test(said))
    return `reading it needs more than ${Math.round(limits.heapBytes / 2 ** 20)} MB of memory`;
  if (signal === "SIGKILL" || signal === "SIGXCPU" || code === 137 || code === 152)
    return `reading it takes more than ${limits.seconds} s`;
  // What a failed allocation ends native code with.
  if (signal === "SIGSEGV" || signal === "SIGABRT" || signal === "SIGTRAP")
    return `its reader broke (${signal}): the file is damaged, or needs more than ${Math.round(limits.heapBytes / 2 ** 20)} MB of memory`;
  return `its reader ended with ${signal ?? `status ${code}`}: ${said.trim().split("\n").at(-1)?.slice(0, 200) || "no word"}`;
}

function start(name: string, { seconds, heapBytes }: ReadLimits): ChildProcess {
  const script = path.join(packageRoot, "bin/ingest.mjs");
  const flags = [`--max-old-space-size=${Math.ceil(heapBytes / 2 ** 20)}`, "--no-warnings"];
  let command = [process.execPath, ...flags, script, name];
  if (process.platform !== "win32")
    command = ["/bin/sh", "-c", `${bounds(seconds, heapBytes)}; exec "$@"`, "sh", ...command];
  if (hasNamespaces()) command = ["unshare", "--user", "--map-root-user", "--net", "--", ...command];
  return spawn(command[0], command.slice(1), {
    cwd: packageRoot,
    env: { PATH: "/usr/bin:/bin", TMPDIR: process.env.TMPDIR, LANG: "C.UTF-8" },
    stdio: ["pipe", "ignore", "pipe", "pipe"],
    detached: true,
  });
}

const bounds = (seconds: number, heapBytes: number) =>
  // Not every system has the last one.
  `ulimit -c 0; ulimit -t ${Math.ceil(seconds)}; ulimit -d ${Math.ceil((BUFFERS * heapBytes) / 1024)} 2>/dev/null`;

let namespaces: boolean | undefined;
/** Whether this system lets anyone make a network namespace; tried once. */
function hasNamespaces(): boolean {
  if (process.platform !== "linux") return false;
  namespaces ??=
    spawnSync("unshare", ["--user", "--map-root-user", "--net", "true"], { timeout: 5000 }).status === 0;
  return namespaces;
}

function end(child: ChildProcess): void {
  try {
    process.kill(process.platform === "win32" ? child.pid! : -child.pid!, "SIGKILL");
  } catch {
    // It has ended.
  }
}

/** The first bytes of a stream as text; `tooMuch` is called once there are more. */
async function collect(stream: Readable, most: number, tooMuch: () => void = () => {}): Promise<string> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of stream) {
    size += chunk.length;
    if (size > most) tooMuch();
    else chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString();
}
