import {
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { createRequire } from "node:module";
import os from "node:os";
import path from "node:path";
import { brotliDecompressSync } from "node:zlib";
import { KilnError } from "../errors.ts";
import { makeFolder } from "./folders.ts";
import { packageRoot } from "./package_node.ts";

/** The Vulkan loader reads the first, older loaders the second. */
const driverVariables = ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"];

/** Where software drivers and their compiled shaders live: `KILN_CACHE`, else `node_modules/.cache/gpu` of the package. */
export function cacheDir(): string {
  return path.resolve(process.env.KILN_CACHE || path.join(packageRoot, "node_modules/.cache/gpu"));
}

/** Dawn's `create()`, with the WebGPU constants put on `globalThis` as in a browser. */
export async function createGpu(flags: string[]): Promise<GPU> {
  const { create, globals } = await import("webgpu").catch((cause: unknown) => {
    const hint = "run `npm ci`, on Linux with glibc 2.34 or newer (Debian 12, Ubuntu 22.04)";
    throw new KilnError(`The WebGPU library does not load on ${process.platform} ${process.arch}: ${hint}.`, {
      code: "no_adapter",
      cause,
    });
  });
  Object.assign(globalThis, globals);
  return create(flags);
}

/** The version of the package that Dawn comes in. */
export function webgpuVersion(): string {
  const file = createRequire(import.meta.url).resolve("webgpu/package.json");
  return (JSON.parse(readFileSync(file, "utf8")) as { version: string }).version;
}

/** `system` is whatever the machine has installed, usually a GPU's driver. */
export type Driver = "system" | "warp" | "lavapipe" | "swiftshader";

/**
 * Makes the next `create()` find a driver. Returns false, with the environment unchanged, if this machine cannot have it.
 * Windows includes WARP.
 */
export function prepareDriver(driver: Driver): boolean {
  if (driver === "warp") return process.platform === "win32";
  if (driver === "system") return useSystemDrivers();
  if (process.platform !== "linux") return false;
  if (driver === "lavapipe") {
    const folder = path.join(cacheDir(), "lavapipe");
    if (!existsSync(path.join(folder, "lvp_icd.json"))) return false;
    useDriver(folder, "lvp_icd.json");
    return true;
  }
  if (process.arch !== "x64") return false;
  const folder = unpackSwiftshader();
  if (!folder) return false;
  useDriver(folder, "vk_swiftshader_icd.json");
  return true;
}

/** The software drivers that this machine can have without a download, and what tells one version from another. */
export function softwareDrivers(): { driver: "lavapipe" | "swiftshader"; version: string }[] {
  if (process.platform !== "linux") return [];
  const library = path.join(cacheDir(), "lavapipe/libvulkan_lvp.so");
  const archive = process.arch === "x64" ? swiftshaderArchive() : null;
  const found = [
    ["lavapipe", library],
    ["swiftshader", archive],
  ] as const;
  return found.flatMap(([driver, file]) => {
    const stats = file ? statSync(file, { throwIfNoEntry: false }) : undefined;
    return stats ? [{ driver, version: `${stats.size}` }] : [];
  });
}

/**
 * Undoes an earlier `useDriver` and makes sure that there is a Vulkan loader: machines with a GPU driver but no loader
 * (containers, mostly) use the one that comes with SwiftShader. False if no driver is installed: asking Dawn anyway would
 * only print its warnings.
 */
function useSystemDrivers(): boolean {
  if (process.platform !== "linux") return true;
  for (const name of driverVariables) {
    if (process.env[name]?.startsWith(cacheDir())) delete process.env[name];
  }
  if (!driverVariables.some((name) => process.env[name]) && systemManifests().length === 0) return false;
  if (preload("libvulkan.so.1") || process.arch !== "x64") return true;
  const folder = unpackSwiftshader();
  if (folder) preload(path.join(folder, "libvulkan.so.1"));
  return true;
}

/** The driver manifests in the folders that the Vulkan loader searches, or where container hosts mount NVIDIA's. */
export function systemManifests(): string[] {
  const { HOME = "", XDG_DATA_HOME, XDG_CONFIG_HOME, XDG_DATA_DIRS, XDG_CONFIG_DIRS } = process.env;
  const lists = [
    XDG_DATA_HOME ?? `${HOME}/.local/share`,
    XDG_CONFIG_HOME ?? `${HOME}/.config`,
    XDG_DATA_DIRS,
  ];
  const fixed = [
    "/usr/share",
    "/usr/local/share",
    "/etc",
    "/etc/xdg",
    "/usr/local/etc",
    "/run/opengl-driver/share",
  ];
  const roots = [...lists, XDG_CONFIG_DIRS].flatMap((list) => list?.split(":") ?? []).concat(fixed);
  const found = roots.flatMap(manifests);
  if (found.length > 0) return found;
  // No loader looks here by itself.
  const mounted = manifests("/usr/local/nvidia/share");
  if (mounted.length > 0) process.env.VK_ADD_DRIVER_FILES ??= mounted.join(":");
  return mounted;
}

function manifests(root: string): string[] {
  const folder = path.join(root, "vulkan/icd.d");
  try {
    return readdirSync(folder)
      .filter((name) => name.endsWith(".json"))
      .map((name) => path.join(folder, name));
  } catch {
    return [];
  }
}

/** The folder with SwiftShader and a Vulkan loader, unpacked from the npm package on first use; null without the package. */
export function unpackSwiftshader(): string | null {
  const destination = path.join(cacheDir(), "swiftshader");
  if (existsSync(destination)) return destination;
  const archive = swiftshaderArchive();
  if (!archive) return null;
  const entries = readTar(brotliDecompressSync(readFileSync(archive)));
  try {
    makeFolder(cacheDir());
    // Unpacked aside and renamed, so that many processes may do this at once and none sees half a driver.
    const aside = mkdtempSync(`${destination}-`);
    for (const { name, data } of entries) {
      if (/vulkan|vk_swiftshader/.test(name))
        writeFileSync(path.join(aside, path.basename(name)), data, { mode: 0o755 });
    }
    try {
      renameSync(aside, destination);
    } catch (error) {
      rmSync(aside, { recursive: true, force: true });
      if (!existsSync(destination)) throw error;
    }
  } catch (cause) {
    throw new KilnError(
      `The software driver cannot be unpacked into ${cacheDir()}: set KILN_CACHE to a folder that you can write.`,
      {
        code: "cache_unwritable",
        cause,
      },
    );
  }
  return destination;
}

function swiftshaderArchive(): string | null {
  try {
    const entry = createRequire(import.meta.url).resolve("@sparticuz/chromium");
    const archive = path.resolve(path.dirname(entry), "../../bin/swiftshader.tar.br");
    return existsSync(archive) ? archive : null;
  } catch {
    return null;
  }
}

/** The plain files of an uncompressed POSIX tar: 512-byte headers, names of at most 100 bytes. */
export function readTar(tar: Uint8Array): { name: string; data: Uint8Array }[] {
  const text = (from: number, to: number) =>
    Buffer.from(tar.subarray(from, to)).toString("utf8").replace(/\0.*$/s, "");
  const files: { name: string; data: Uint8Array }[] = [];
  let offset = 0;
  while (offset + 512 <= tar.length) {
    const name = text(offset, offset + 100);
    if (!name) break;
    const size = Number.parseInt(text(offset + 124, offset + 136), 8) || 0;
    const kind = text(offset + 156, offset + 157);
    const start = offset + 512;
    if (kind === "0" || kind === "") files.push({ name, data: tar.subarray(start, start + size) });
    offset = start + Math.ceil(size / 512) * 512;
  }
  return files;
}

/**
 * Point the Vulkan loader at one driver and load the folder's libraries for the whole process, so that no
 * LD_LIBRARY_PATH, and no second process, is needed.
 */
function useDriver(folder: string, icd: string): void {
  const file = path.join(folder, icd);
  for (const name of driverVariables) process.env[name] = file;
  process.env.XDG_RUNTIME_DIR ??= os.tmpdir(); // Mesa complains without one
  process.env.MESA_SHADER_CACHE_DIR ??= path.join(cacheDir(), "mesa");
  let waiting = readdirSync(folder).filter((name) => /\.so\.[\d.]+$/.test(name));
  // A library loads only after those it needs: repeat until a round loads none.
  for (let before = -1; waiting.length > 0 && waiting.length !== before; ) {
    before = waiting.length;
    waiting = waiting.filter((name) => !preload(path.join(folder, name)));
  }
}

function preload(library: string): boolean {
  const { RTLD_LAZY, RTLD_GLOBAL } = os.constants.dlopen;
  const keepLoaded = 0x1000; // RTLD_NODELETE: Node closes what is no addon, this keeps it
  const mode = RTLD_LAZY | RTLD_GLOBAL | keepLoaded;
  try {
    process.dlopen({ exports: {} }, library, mode);
    return true;
  } catch (error) {
    // Node finds no addon in it, but the library itself stays loaded, as it should.
    return /self-register/.test(String(error));
  }
}
