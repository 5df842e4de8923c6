import { spawnSync } from "node:child_process";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { mkdir, open, readdir, rename, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { KilnError } from "../core/errors.ts";
import {
  atomicWriteDirectory,
  atomicWriteFile,
  type FileSystem,
  readJson,
  writeJson,
} from "../core/platform/files.ts";
import { killWriters, readVersion } from "./support/killed_writers.ts";

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "kiln-files-"));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

/** The real file system, whose call number `failAt` fails with `code`; counts calls of the operations that write. */
function failing(failAt: number, code: string): { fs: FileSystem; calls: () => number } {
  let calls = 0;
  const step = async <T>(work: () => Promise<T>): Promise<T> => {
    if (calls++ === failAt) throw Object.assign(new Error(`${code}: simulated\nsecond line`), { code });
    return work();
  };
  const fs: FileSystem = {
    open: async (path, flags) => {
      const file = await step(() => open(path, flags));
      return {
        writeFile: (data) => step(() => file.writeFile(data)),
        sync: () => step(() => file.sync()),
        close: () => file.close(),
      };
    },
    mkdir: (path, options) => step(() => mkdir(path, options)),
    rename: (from, to) => step(() => rename(from, to)),
    readdir,
    rm,
    stat,
  };
  return { fs, calls: () => calls };
}

async function fillDirectory(directory: string, version: number): Promise<void> {
  for (const name of ["config.json", "weights.bin", "tokenizer.json"]) {
    writeFileSync(join(directory, name), String(version).repeat(1000));
  }
  mkdirSync(join(directory, "optimizer"));
  writeFileSync(join(directory, "optimizer", "state.bin"), String(version).repeat(1000));
}

describe("atomicWriteFile", () => {
  it("writes text, bytes and chunks, makes folders, and replaces", async () => {
    const path = join(folder, "a", "b", "file");
    await atomicWriteFile(path, "one");
    await atomicWriteFile(path, [Buffer.from("tw"), Buffer.from("o")]);
    expect(readFileSync(path, "utf8")).toBe("two");
    expect(readdirSync(join(folder, "a", "b"))).toEqual(["file"]);
  });

  it("keeps the old file and leaves no temporary, whichever step fails", async () => {
    const path = join(folder, "file");
    const trial = failing(-1, "");
    await atomicWriteFile(path, "old", trial.fs);
    expect(trial.calls()).toBeGreaterThanOrEqual(5);
    // The last two steps open and flush the folder after the rename: by then the new file is in place.
    for (let step = 0; step < trial.calls(); step++) {
      writeFileSync(path, "old");
      const error = await atomicWriteFile(path, "new", failing(step, "ENOSPC").fs).catch((thrown) => thrown);
      expect(error).toBeInstanceOf(KilnError);
      expect(error.code).toBe("disk_full");
      expect(error.message).toMatch(/^no space left on the disk for .*free some space.*$/);
      expect(readFileSync(path, "utf8")).toBe(step < trial.calls() - 2 ? "old" : "new");
      expect(readdirSync(folder)).toEqual(["file"]);
    }
  });

  it("says what cannot be written in one line", async () => {
    const error = await atomicWriteFile(join(folder, "x"), "x", failing(1, "EACCES").fs).catch(
      (thrown) => thrown,
    );
    expect(error.message).toMatch(/may not be written by this user/);
    const other = await atomicWriteFile(join(folder, "x"), "x", failing(1, "EIO").fs).catch(
      (thrown) => thrown,
    );
    expect(other.message).toMatch(/cannot be written: EIO: simulated; what was saved before is intact$/);
  });
});

describe("atomicWriteDirectory", () => {
  it("creates and replaces a whole directory", async () => {
    const directory = join(folder, "model");
    await atomicWriteDirectory(directory, (temporary) => fillDirectory(temporary, 1));
    expect(await readVersion(directory)).toBe("1");
    writeFileSync(join(directory, "stale"), "");
    await atomicWriteDirectory(directory, (temporary) => fillDirectory(temporary, 2));
    expect(await readVersion(directory)).toBe("2");
    expect(existsSync(join(directory, "stale"))).toBe(false);
    expect(readdirSync(folder)).toEqual(["model"]);
  });

  it("F21: keeps a complete state and leaves no temporary, whichever step fails", async () => {
    const directory = join(folder, "model");
    await atomicWriteDirectory(directory, (temporary) => fillDirectory(temporary, 1));
    const trial = failing(-1, "");
    await atomicWriteDirectory(directory, (temporary) => fillDirectory(temporary, 1), trial.fs);
    expect(trial.calls()).toBeGreaterThanOrEqual(15);
    let kept = 0;
    for (let step = 0; step < trial.calls(); step++) {
      const { fs } = failing(step, "ENOSPC");
      const write = atomicWriteDirectory(directory, (temporary) => fillDirectory(temporary, 2), fs);
      await expect(write).rejects.toThrow("no space left on the disk");
      const version = await readVersion(directory);
      if (version === "1") kept++;
      expect(readdirSync(folder)).toEqual(["model"]);
      await atomicWriteDirectory(directory, (temporary) => fillDirectory(temporary, 1));
    }
    // All but the two steps after the last rename.
    expect(kept).toBe(trial.calls() - 2);
  });

  it("passes on the writer's own error and keeps the old directory", async () => {
    const directory = join(folder, "model");
    await atomicWriteDirectory(directory, (temporary) => fillDirectory(temporary, 1));
    const write = atomicWriteDirectory(directory, async () => {
      throw new KilnError("loss is not finite");
    });
    await expect(write).rejects.toThrow(/^loss is not finite$/);
    expect(await readVersion(directory)).toBe("1");
    expect(readdirSync(folder)).toEqual(["model"]);
  });

  it("reads and repairs the state of a crash between the two renames", async () => {
    const directory = join(folder, "model");
    mkdirSync(join(folder, ".model.previous"));
    await fillDirectory(join(folder, ".model.previous"), 1);
    // No process has this id: the limit on Linux is 2^22.
    mkdirSync(join(folder, ".model.tmp-99999999-abc"));
    expect(await readVersion(directory)).toBe("1");
    await atomicWriteDirectory(directory, (temporary) => fillDirectory(temporary, 2));
    expect(await readVersion(directory)).toBe("2");
    expect(readdirSync(folder)).toEqual(["model"]);
  });

  it("F20: survives kill -9 at any moment, 20 times", { timeout: 60_000 }, async () => {
    await killWriters(folder, 20);
    const directory = join(folder, "model");
    await atomicWriteDirectory(directory, (temporary) => fillDirectory(temporary, 7));
    expect(readdirSync(folder).sort()).toEqual(["model", "writer.mjs"]);
  });
});

it.runIf(process.platform === "linux")(
  "a folder that the system refuses is an error, not a wait",
  async () => {
    // Node's recursive mkdir loops for ever here, deaf to every signal but one.
    const module = new URL("../core/platform/files.ts", import.meta.url).href;
    const work = `import(${JSON.stringify(module)}).then((f) => f.writeJson("/proc/nope/x/y.json", {})).catch((e) => console.log(e.message))`;
    const args = ["--import", import.meta.resolve("tsx"), "-e", work];
    const { stdout } = spawnSync(process.execPath, args, {
      encoding: "utf8",
      timeout: 60_000,
      killSignal: "SIGKILL",
    });
    expect(stdout).toMatch(
      /^\/proc\/nope\/x\/y.json cannot be written: .*; what was saved before is intact\n$/,
    );
  },
);

describe("readJson", () => {
  it("reads what writeJson wrote, and a byte order mark", async () => {
    await writeJson(join(folder, "x.json"), { a: [1] });
    expect(await readJson(join(folder, "x.json"))).toEqual({ a: [1] });
    writeFileSync(join(folder, "bom.json"), "\uFEFF{}");
    expect(await readJson(join(folder, "bom.json"))).toEqual({});
  });

  it("gives one line for a missing, empty or broken file and for a folder", async () => {
    const bad = join(folder, "bad.json");
    await expect(readJson(bad)).rejects.toThrow(`${bad} does not exist`);
    writeFileSync(bad, " ");
    await expect(readJson(bad)).rejects.toThrow(`${bad} is not valid JSON: it is empty`);
    writeFileSync(bad, Buffer.from('{"a": "caf\u00e9"}', "latin1"));
    await expect(readJson(bad)).rejects.toThrow(/^.*bad.json is not UTF-8 text; [^\n]*$/);
    writeFileSync(bad, '{\n"a": tru\n}');
    await expect(readJson(bad)).rejects.toThrow(/^.*bad.json is not valid JSON: [^\n]*$/);
    await expect(readJson(folder)).rejects.toThrow("is a directory");
  });
});
