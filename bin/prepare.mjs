// What `npm start`, `npm test` and `npm run bench` share: from a fresh clone to a machine that can run shaders.
// Plain JavaScript on Node alone, since it runs before anything is installed.
import { spawn, spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { constants } from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { cache, fetchLavapipe, hasLavapipe } from "./setup_gpu.mjs";

export const root = path.resolve(fileURLToPath(new URL("..", import.meta.url)));
const oldestNode = [20, 19];

/** Prints one line for the user and exits. */
export function stop(line, code = 1) {
  console.error(line);
  process.exit(code);
}

export function checkNode() {
  const [major, minor] = process.versions.node.split(".").map(Number);
  if (major > oldestNode[0] || (major === oldestNode[0] && minor >= oldestNode[1])) return;
  stop(
    `kiln needs Node ${oldestNode.join(".")} or newer, and this is ${process.versions.node}: see https://nodejs.org`,
  );
}

/**
 * Node, dependencies, adapter: all that a command of the README needs. Ends the process with one line if something is
 * missing. Returns the adapter's description, and prints it unless the command does so itself. Without `dev`, what only
 * developers need is not waited for.
 */
export function prepare({ announce = true, dev = true } = {}) {
  checkNode();
  installDependencies(dev);
  const found = prepareAdapter();
  if (announce) console.log(found.line);
  return found;
}

/** `npm ci` in the project's root when something that the lock file lists is missing or of another version. */
function installDependencies(dev) {
  if (dependenciesMatch(root, dev)) return;
  console.log("Installing the dependencies (npm ci, about half a minute)…");
  const problem = npm(["ci", "--ignore-scripts", ...(dev ? [] : ["--omit=dev"])], root);
  if (problem)
    stop(
      `The dependencies cannot be installed: ${problem}. Check the network and run \`npm ci --ignore-scripts\`.`,
    );
}

/** Run npm quietly in `folder`; null, or its first error line. Install scripts stay off: no dependency needs one. */
export function npm(args, folder) {
  const own = process.env.npm_execpath?.endsWith(".js") ? process.env.npm_execpath : null;
  const [command, first] = own ? [process.execPath, [own]] : ["npm", []];
  const quiet = ["--no-audit", "--no-fund", "--loglevel=error"];
  const done = spawnSync(command, [...first, ...args, ...quiet], {
    cwd: folder,
    encoding: "utf8",
    stdio: ["ignore", "pipe", "pipe"],
    shell: !own && process.platform === "win32", // npm is a .cmd file there
    maxBuffer: 1 << 26,
  });
  if (done.status === 0) return null;
  const lines = (done.stderr ?? "")
    .split("\n")
    .map((line) => line.replace(/^npm (error|ERR!)\s*/, "").trim());
  return lines.find((line) => line && !line.startsWith("code ")) ?? done.error?.message ?? "npm failed";
}

/** Whether node_modules holds what package-lock.json asks for, developers' needs or not, by npm's own record of it. */
export function dependenciesMatch(folder, dev = true) {
  const lock = path.join(folder, "package-lock.json");
  if (!existsSync(lock)) return true; // installed from a package: npm has seen to it
  const record = path.join(folder, "node_modules/.package-lock.json");
  if (!existsSync(record)) return false;
  const present = JSON.parse(readFileSync(record, "utf8")).packages;
  return Object.entries(JSON.parse(readFileSync(lock, "utf8")).packages).every(([name, wanted]) => {
    if (name === "") return true;
    // Packages for other platforms are listed, but rightly absent.
    return present[name]
      ? present[name].version === wanted.version
      : Boolean(wanted.optional || wanted.devOptional || wanted.peer || (wanted.dev && !dev));
  });
}

/** Open an adapter in a child process, so that a failed try leaves nothing behind in this one. */
function probe() {
  const done = spawnSync(process.execPath, [path.join(root, "bin/probe.mjs")], {
    encoding: "utf8",
    timeout: 60_000,
    stdio: ["ignore", "pipe", "ignore"],
  });
  try {
    return JSON.parse(done.stdout);
  } catch {
    return {
      error: `The WebGPU driver ends the process (${done.signal ?? done.status}): try KILN_ADAPTER=software.`,
    };
  }
}

/** Find the adapter to run on. If no GPU answers, first fetch the better software driver, in seconds and without root. */
export function prepareAdapter() {
  let found = probe();
  if ((found.error || found.driver === "swiftshader") && shouldFetch()) {
    console.log("No GPU answers: fetching lavapipe, a software driver with f16 (about 55 MB)…");
    const problem = fetchLavapipe(60);
    if (problem) rememberFailure(problem);
    else found = probe();
  }
  if (found.error) stop(found.error);
  return found;
}

const failure = path.join(cache, "lavapipe.failed");

/** A failure counts for a day: a machine without apt or network should not wait each time. */
function shouldFetch() {
  if (process.platform !== "linux" || hasLavapipe()) return false;
  if (!["", "auto", "software", "lavapipe"].includes(process.env.KILN_ADAPTER ?? "")) return false;
  return !existsSync(failure) || Date.now() - statSync(failure).mtimeMs > 86_400_000;
}

function rememberFailure(problem) {
  console.log(`${problem}; going on with what there is (\`npm run setup:gpu\` tries again).`);
  try {
    mkdirSync(cache, { recursive: true });
    writeFileSync(failure, problem);
  } catch {} // a read-only cache only costs another try
}

/** Dawn writes warnings about lavapipe's limits to the process's own stderr; they mean nothing to a user. */
const noise = /^Warning: \w+ artificially reduced from .*\n/gm;

/** Run a Node script of ours with Dawn's noise removed from its stderr. Resolves to its exit status. */
export function runNode(script, args, options = {}) {
  const child = spawn(process.execPath, [script, ...args], {
    stdio: ["inherit", "inherit", "pipe"],
    ...options,
  });
  child.stderr.setEncoding("utf8");
  child.stderr.on("data", (text) => process.stderr.write(text.replace(noise, "")));
  // Ctrl-C reaches the child as well: it saves what it has, and we exit with its status.
  for (const signal of ["SIGINT", "SIGTERM"])
    process.on(signal, () => signal === "SIGTERM" && child.kill(signal));
  return new Promise((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (code, signal) => resolve(code ?? 128 + constants.signals[signal]));
  });
}

export const kiln = path.join(root, "bin/kiln.mjs");
