#!/usr/bin/env node
// Fetch lavapipe, Mesa's software Vulkan driver, into the driver cache: Linux with apt, no root, nothing installed.
// It is several times faster than SwiftShader and has f16. Everything comes from the machine's own package sources,
// through a private apt state. Whatever goes wrong, it says so in one line and exits 0: SwiftShader still works.
import { spawnSync } from "node:child_process";
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";

const ownCache = fileURLToPath(new URL("../node_modules/.cache/gpu", import.meta.url));
/** The same folder as `cacheDir()` in core/platform/adapter_node.ts. */
export const cache = path.resolve(process.env.KILN_CACHE || ownCache);
const destination = path.join(cache, "lavapipe");
export const hasLavapipe = () => existsSync(path.join(destination, "lvp_icd.json"));

/** Never included: a process must have only one C and C++ runtime, its own. The others hold no library. */
const unwanted = /^(libc6|libgcc-s1|libstdc\+\+6|gcc-\d+-base|.*-common|.*-data)$/;

/** Fetch the driver within `seconds`. Returns null when it is in place, else a line that says why it is not. */
export function fetchLavapipe(seconds = 60) {
  if (hasLavapipe()) return null;
  if (process.platform !== "linux")
    return "software drivers are fetched on Linux only; this system brings its own";
  const deadline = Date.now() + seconds * 1000;
  let work;
  const cleanUp = () => work && rmSync(work, { recursive: true, force: true });
  const interrupted = () => process.exit(130); // without a handler, Ctrl-C would skip the clean-up
  process.on("exit", cleanUp);
  process.on("SIGINT", interrupted);
  try {
    mkdirSync(cache, { recursive: true });
    work = mkdtempSync(path.join(cache, "fetch-"));
    const root = unpackPackages(work, deadline);
    const built = assemble(root, path.join(work, "lavapipe"), deadline);
    try {
      renameSync(built, destination);
    } catch (error) {
      if (!hasLavapipe()) throw error; // else another process was first, with the same files
    }
    return null;
  } catch (error) {
    return `no lavapipe here: ${String(error.message).split("\n")[0]}`;
  } finally {
    cleanUp();
    process.off("exit", cleanUp);
    process.off("SIGINT", interrupted);
  }
}

function run(command, args, deadline, options = {}) {
  const timeout = deadline - Date.now();
  if (timeout <= 0) throw new Error("the time limit is over");
  const done = spawnSync(command, args, { encoding: "utf8", timeout, maxBuffer: 1 << 26, ...options });
  if (done.error?.code === "ENOENT") throw new Error(`${command} is not on this machine`);
  if (done.error?.code === "ETIMEDOUT") throw new Error("the time limit is over");
  if (done.error) throw done.error;
  if (done.signal === "SIGINT" || done.status === 130) process.exit(130); // Ctrl-C: no failure to remember
  return done;
}

/** Download mesa-vulkan-drivers with what it needs, and unpack all of it under one folder. */
function unpackPackages(work, deadline) {
  const { env, suite } = privateApt(work);
  const apt = (args, cwd) => run("apt-get", ["-q", ...args], deadline, { env, cwd });
  apt(["update"]); // one broken source of many is no reason to stop: the next step tells
  const wanted = ["mesa-vulkan-drivers", "libvulkan1"];
  const plan = apt(["install", "-y", "--no-install-recommends", ...suite, "--print-uris", ...wanted]);
  const names = [...plan.stdout.matchAll(/^'[^']*' ([^_\s]+)_\S+\.deb /gm)].map((match) => match[1]);
  if (plan.status !== 0 || names.length === 0)
    throw new Error("its packages are not in this machine's apt sources");
  const archives = path.join(work, "debs");
  const root = path.join(work, "root");
  mkdirSync(archives);
  mkdirSync(root);
  const download = apt(["download", ...suite, ...names.filter((name) => !unwanted.test(name))], archives);
  if (download.status !== 0) throw new Error("the package mirror did not answer");
  for (const name of readdirSync(archives)) {
    const unpacked = run("dpkg-deb", ["-x", path.join(archives, name), root], deadline);
    if (unpacked.status !== 0) throw new Error(`${name} cannot be unpacked (disk full?)`);
  }
  return root;
}

/** An apt of our own: the machine's configuration and sources, but with state and cache in `work` and no hooks. */
function privateApt(work) {
  for (const folder of ["state/lists/partial", "cache/archives/partial", "conf.d", "sources.d"]) {
    mkdirSync(path.join(work, folder), { recursive: true });
  }
  copyAll("/etc/apt/apt.conf.d", path.join(work, "conf.d"));
  const hooks = ["APT::Update::Pre-Invoke", "APT::Update::Post-Invoke", "APT::Update::Post-Invoke-Success"];
  const settings = {
    "Dir::State": path.join(work, "state"),
    "Dir::State::status": "/dev/null", // plan as if nothing were installed: all of the closure
    "Dir::Cache": path.join(work, "cache"),
    "Dir::Etc::sourcelist": "/dev/null",
    "Dir::Etc::sourceparts": path.join(work, "sources.d"),
    "APT::Sandbox::User": "",
    "Acquire::Languages": "none",
    "Acquire::Retries": "0",
    "Acquire::http::Timeout": "10",
    "Acquire::https::Timeout": "10",
  };
  const lines = [
    ...hooks.map((name) => `#clear ${name};`),
    ...Object.entries(settings).map(([k, v]) => `${k} "${v}";`),
  ];
  writeFileSync(path.join(work, "conf.d/zz-kiln"), `${lines.join("\n")}\n`);
  writeFileSync(path.join(work, "apt.conf"), `Dir::Etc::parts "${path.join(work, "conf.d")}";\n`);
  const suite = writeSources(path.join(work, "sources.d"));
  return { env: { ...process.env, LC_ALL: "C", APT_CONFIG: path.join(work, "apt.conf") }, suite };
}

/**
 * Copy the machine's apt sources. Debian 12's own Mesa is too old for Dawn, so there the backports suite of the very
 * same mirrors is added. Returns the arguments that choose it.
 */
function writeSources(folder) {
  copyAll("/etc/apt/sources.list.d", folder);
  if (existsSync("/etc/apt/sources.list"))
    copyFileSync("/etc/apt/sources.list", path.join(folder, "main.list"));
  const release = existsSync("/etc/os-release") ? readFileSync("/etc/os-release", "utf8") : "";
  if (!/^VERSION_CODENAME="?bookworm"?$/m.test(release)) return [];
  const backports = "bookworm-backports";
  for (const name of readdirSync(folder)) {
    const text = readFileSync(path.join(folder, name), "utf8");
    const extra = name.endsWith(".list") ? listBackports(text, backports) : stanzaBackports(text, backports);
    if (extra) writeFileSync(path.join(folder, `kiln-${name}`), extra);
  }
  return ["-t", backports];
}

/** The one-line format: `deb [options] URI bookworm main`. */
export function listBackports(text, backports) {
  const lines = text.split("\n").filter((line) => /^deb\s+(\[[^\]]*\]\s+)?\S+\s+bookworm\s/.test(line));
  return lines
    .map((line) => `${line.replace(/^(deb\s+(?:\[[^\]]*\]\s+)?\S+\s+)bookworm\s/, `$1${backports} `)}\n`)
    .join("");
}

/** The deb822 format: stanzas of `Key: value` lines. */
export function stanzaBackports(text, backports) {
  const stanzas = text.split(/\n\s*\n/).filter((stanza) => /^Suites:(.*\s)?bookworm(\s|$)/m.test(stanza));
  return stanzas
    .map((stanza) => `${stanza.replace(/^Suites:.*$/m, `Suites: ${backports}`).trim()}\n\n`)
    .join("");
}

function copyAll(from, to) {
  if (!existsSync(from)) return;
  for (const entry of readdirSync(from, { withFileTypes: true })) {
    if (entry.isDirectory()) continue;
    try {
      copyFileSync(path.join(from, entry.name), path.join(to, entry.name));
    } catch {} // unreadable without root: apt without it may still do
  }
}

/** The driver, the Vulkan loader and those libraries that the system lacks, flat in one folder, with a manifest. */
function assemble(root, folder, deadline) {
  mkdirSync(folder);
  const inRoot = libraryFolders(root);
  const find = (name) => inRoot.map((lib) => path.join(lib, name)).find(existsSync);
  const driver = find("libvulkan_lvp.so");
  if (!driver) throw new Error("this mesa-vulkan-drivers package has no software driver");
  copyFileSync(driver, path.join(folder, "libvulkan_lvp.so"));
  const env = { ...process.env, LC_ALL: "C", LD_LIBRARY_PATH: inRoot.join(":") };
  const needed = run("ldd", [driver], deadline, { env }).stdout;
  const names = [...needed.matchAll(/^\s*(\S+) => /gm)].map((match) => match[1]);
  const inSystem = libraryFolders("/");
  for (const name of ["libvulkan.so.1", ...names]) {
    const file = find(name);
    // Two copies of a library in one process can end it, so the system's goes first.
    if (file && !inSystem.some((lib) => existsSync(path.join(lib, name)))) {
      copyFileSync(realpathSync(file), path.join(folder, name));
    }
  }
  const manifest = {
    file_format_version: "1.0.0",
    ICD: { library_path: "./libvulkan_lvp.so", api_version: "1.4.0" },
  };
  writeFileSync(path.join(folder, "lvp_icd.json"), JSON.stringify(manifest));
  return folder;
}

/** The library folders of a Debian tree: /lib and /usr/lib, each with its architecture's folder. */
function libraryFolders(root) {
  const triplet = { x64: "x86_64-linux-gnu", arm64: "aarch64-linux-gnu" }[process.arch] ?? "";
  const plain = ["lib", "usr/lib", "lib64", "usr/lib64"].map((name) => path.join(root, name));
  return plain.flatMap((folder) => [path.join(folder, triplet), folder]).filter(existsSync);
}

if (process.argv[1] && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) {
  const present = hasLavapipe();
  const problem = fetchLavapipe();
  const good = present ? "lavapipe is there already" : `lavapipe is ready in ${destination}`;
  if (!process.argv.includes("--quiet"))
    console.log(problem ?? `${good}: \`npm test\` and \`npm start\` use it when no GPU is found.`);
}
