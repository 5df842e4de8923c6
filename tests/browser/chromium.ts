import { existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { brotliDecompressSync } from "node:zlib";
import type { Browser } from "playwright-core";
import { cacheDir, readTar } from "../../core/platform/adapter_node.ts";

/**
 * Starts the headless Chromium of @sparticuz/chromium with WebGPU on its SwiftShader: the package brings the libraries it
 * needs, so nothing has to be installed. Throws one line where this machine cannot run it.
 */
export async function launchChromium(): Promise<Browser> {
  if (process.platform !== "linux" || process.arch !== "x64") {
    throw new Error(`the packaged Chromium is for linux x64, this is ${process.platform} ${process.arch}`);
  }
  // Machines that bring no browser may lack the packages too: then this throws, and the file still loads.
  const { chromium } = await import("playwright-core");
  const folder = unpackChromium();
  try {
    return await chromium.launch({
      executablePath: path.join(folder, "headless_shell"),
      env: { ...process.env, LD_LIBRARY_PATH: folder } as Record<string, string>,
      args: ["--no-sandbox", "--enable-unsafe-webgpu"],
    });
  } catch (error) {
    const lines = String((error as Error).message).split("\n");
    const cause = lines.find((line) => line.includes("error while loading")) ?? lines[0];
    throw new Error(`the packaged Chromium does not start: ${cause}`);
  }
}

/** The folder with `headless_shell` and its libraries, about 200 MB, unpacked on first use. */
function unpackChromium(): string {
  const packageDir = path.resolve(
    path.dirname(createRequire(import.meta.url).resolve("@sparticuz/chromium")),
    "../..",
  );
  const { version } = JSON.parse(readFileSync(path.join(packageDir, "package.json"), "utf8"));
  const destination = path.join(cacheDir(), `chromium-${version}`);
  if (existsSync(destination)) return destination;
  const unpacked = (name: string) => brotliDecompressSync(readFileSync(path.join(packageDir, "bin", name)));
  mkdirSync(cacheDir(), { recursive: true });
  // Unpacked aside and renamed, so that a run that is cut short leaves no half a browser behind.
  const aside = mkdtempSync(`${destination}-`);
  try {
    for (const archive of ["al2023.tar.br", "swiftshader.tar.br"]) {
      for (const { name, data } of readTar(unpacked(archive))) {
        writeFileSync(path.join(aside, path.basename(name)), data, { mode: 0o755 });
      }
    }
    writeFileSync(path.join(aside, "headless_shell"), unpacked("chromium.br"), { mode: 0o755 });
    renameSync(aside, destination);
  } catch (error) {
    rmSync(aside, { recursive: true, force: true });
    if (!existsSync(destination)) throw error;
  }
  return destination;
}
