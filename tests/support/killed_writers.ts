import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";
import { expect } from "vitest";
import { currentDirectory } from "../../core/platform/files.ts";

/**
 * Kills processes that write one version of the directory `model` of a folder after the other, at moments spread over their
 * work: what is there afterwards is always a whole version, the last told of or the next.
 */
export async function killWriters(folder: string, times: number): Promise<void> {
  const directory = join(folder, "model");
  const script = join(folder, "writer.mjs");
  const module = fileURLToPath(new URL("../../core/platform/files.ts", import.meta.url));
  const contents = `
    import { mkdirSync, writeFileSync } from "node:fs";
    import { atomicWriteDirectory } from ${JSON.stringify(module)};
    for (let version = Number(process.argv[2]); ; version++) {
      await atomicWriteDirectory(${JSON.stringify(directory)}, async (temporary) => {
        const text = String(version).padStart(8, "0").repeat(1000);
        for (const name of ["config.json", "weights.bin", "tokenizer.json"]) writeFileSync(temporary + "/" + name, text);
        mkdirSync(temporary + "/optimizer");
        writeFileSync(temporary + "/optimizer/state.bin", text);
      });
      process.stdout.write(version + "\\n");
    }`;
  const options = { bundle: true, platform: "node", format: "esm", packages: "external" } as const;
  await build({ stdin: { contents, resolveDir: folder }, outfile: script, ...options });
  let last = 0;
  for (let time = 0; time < times; time++) {
    const child = spawn(process.execPath, [script, String(last + 1)], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    const exited = new Promise((resolve) => child.once("close", resolve));
    await new Promise<void>((resolve) => {
      child.stdout.on("data", (chunk: Buffer) => {
        last = Number(chunk.toString().trim().split("\n").at(-1));
        resolve();
      });
    });
    await new Promise((resolve) => setTimeout(resolve, (time * 7) % 23));
    child.kill("SIGKILL");
    await exited;
    // The version last reported, or one whose report the kill cut off; always a whole one.
    const version = Number(await readVersion(directory));
    expect(version).toBeGreaterThanOrEqual(last);
    expect(version).toBeLessThanOrEqual(last + 1);
    last = version;
  }
}

/** The version that every file of the directory agrees on; throws when they differ or one is missing or short. */
export async function readVersion(directory: string): Promise<string> {
  const current = await currentDirectory(directory);
  const names = ["config.json", "weights.bin", "tokenizer.json", "optimizer/state.bin"];
  const contents = names.map((name) => readFileSync(join(current, name), "utf8"));
  const version = contents[0].slice(0, contents[0].length / 1000);
  expect(contents).toEqual(names.map(() => version.repeat(1000)));
  return version;
}
