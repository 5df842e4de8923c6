import { spawn, spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { hostname, tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { lockFile, lockRun } from "../train/run_lock.ts";

const root = mkdtempSync(join(tmpdir(), "kiln-lock-"));
afterAll(() => rmSync(root, { recursive: true }));
const module = new URL("../train/run_lock.ts", import.meta.url).href;
const place = (name: string) => join(root, name);
const lockOf = (folder: string) => join(folder, lockFile);

/** A process that locks the folder and then does what `after` says, in JavaScript. */
function holder(folder: string, after: string, before = "") {
  const program = `const { lockRun } = await import(${JSON.stringify(module)}); ${before}
    const release = lockRun(${JSON.stringify(folder)}); console.log("locked"); ${after}`;
  return ["--import", "tsx", "--input-type=module", "-e", program];
}

describe("the lock of a run folder", () => {
  it("keeps a second process out by name and lets the next in after it: exit, error, kill", async () => {
    const folder = place("held");
    const child = spawn(process.execPath, holder(folder, "setInterval(() => {}, 1000)"));
    await new Promise((resolve) => child.stdout.once("data", resolve));
    expect(() => lockRun(folder)).toThrow(
      `another process (${child.pid}) is writing this run folder: wait for it, stop it, or give another --out`,
    );
    child.kill("SIGKILL");
    await new Promise((resolve) => child.once("close", resolve));
    expect(existsSync(lockOf(folder))).toBe(true);
    const release = lockRun(folder);
    expect(JSON.parse(readFileSync(lockOf(folder), "utf8"))).toMatchObject({
      pid: process.pid,
      host: hostname(),
    });
    expect(() => lockRun(folder)).toThrow(/another process/);
    release();
    for (const end of ["process.exit(3)", "throw new Error('x')", "release()"]) {
      spawnSync(process.execPath, holder(folder, end));
      expect(readdirSync(folder), end).toEqual([]);
    }
  });

  it("is taken over where the id is another process's now, or the file says nothing", () => {
    const folder = place("stale");
    lockRun(folder)();
    const lock = { pid: process.ppid, host: hostname() };
    for (const text of [JSON.stringify({ ...lock, started: "long ago" }), '{"pid":', ""]) {
      writeFileSync(lockOf(folder), text);
      lockRun(folder)();
      expect(readdirSync(folder)).toEqual([]);
    }
    // A start time that is not known proves nothing.
    writeFileSync(lockOf(folder), JSON.stringify({ ...lock, started: null }));
    expect(() => lockRun(folder)).toThrow(`another process (${process.ppid})`);
  });

  it("of a file in place of a folder is refused in a line", () => {
    writeFileSync(place("file"), "");
    expect(() => lockRun(place("file"))).toThrow(/file.\.lock cannot be written/);
  });

  it("of another machine is left alone, and the line says what to do", () => {
    const folder = place("elsewhere");
    lockRun(folder)();
    writeFileSync(lockOf(folder), JSON.stringify({ pid: 1, host: "other", started: null }));
    expect(() => lockRun(folder)).toThrow(
      `another process (1 on other) is writing this run folder: if that one is gone, delete ${lockOf(folder)}`,
    );
    expect(readdirSync(folder)).toEqual([lockFile]);
  });

  it("goes to one of many that find a stale one at once", async () => {
    const folder = place("race");
    lockRun(folder)();
    writeFileSync(lockOf(folder), JSON.stringify({ pid: 2 ** 22 + 1, host: hostname(), started: "gone" }));
    const begin = Date.now() + 3000;
    const wait = `while (Date.now() < ${begin});`;
    const outcomes = await Promise.all(
      Array.from({ length: 6 }, () => {
        const child = spawn(process.execPath, holder(folder, "setTimeout(() => {}, 4000)", wait), {
          stdio: ["ignore", "pipe", "ignore"],
        });
        let text = "";
        child.stdout.on("data", (data) => (text += data));
        return new Promise<string>((resolve) => child.on("close", () => resolve(text)));
      }),
    );
    expect(outcomes.filter((text) => text.includes("locked"))).toHaveLength(1);
    expect(readdirSync(folder)).toEqual([]);
  });
});
