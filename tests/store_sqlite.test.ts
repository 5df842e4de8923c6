import { execFileSync } from "node:child_process";
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import Database from "libsql";
import { afterAll, describe, expect, it } from "vitest";
import { checkStore } from "../serve/store/check.ts";
import { openStore, openStoreAsIs, searchMessages } from "../serve/store/index.ts";
import { killWriters } from "./support/store_kill.ts";
import { Writer } from "./support/store_processes.ts";
import { addConversation, addMessage, addUser } from "./support/store_rows.ts";

const folder = mkdtempSync(path.join(tmpdir(), "kiln-sqlite-"));
chmodSync(folder, 0o777);
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const filled = async (address: string) => {
  const store = await openStore(address);
  const user = await addUser(store);
  const conversation = await addConversation(store, user);
  return { store, user, conversation };
};

describe("traps of libsql are covered", () => {
  it("binds booleans and bytes, counts values, and gives rows of their columns alone", async () => {
    const { store } = await filled(`sqlite:${folder}/traps.db`);
    // Given to libsql by themselves, these end the process.
    expect(await store.all("SELECT ? AS x", [true])).toEqual([{ x: 1 }]);
    expect(await store.all("SELECT ? AS x", [Buffer.from([7])])).toEqual([{ x: Uint8Array.of(7) }]);
    await expect(store.all("SELECT ? AS x, ? AS y", [1])).rejects.toMatchObject({ code: "store_value" });
    const [row] = await store.all("SELECT 1 AS x");
    expect(Reflect.ownKeys(row!)).toEqual(["x"]);
    // A whole number stays one in a column of text, where libsql would write 1.0.
    await store.run("UPDATE conversation SET title = ?", [1]);
    expect(await store.all("SELECT title FROM conversation")).toEqual([{ title: "1" }]);
    await store.close();
  });

  it("views cannot write, although libsql opens nothing read-only", async () => {
    const { store } = await filled(`sqlite:${folder}/view.db`);
    await expect(store.snapshot((view) => view.run("DELETE FROM conversation"))).rejects.toThrow("written");
    expect(await store.all("SELECT count(*) AS n FROM conversation")).toEqual([{ n: 1 }]);
    await store.close();
  });

  it("a store that is closed is whole in its one file", async () => {
    const file = `${folder}/closed.db`;
    const { store, user } = await filled(`sqlite:${file}`);
    await store.close();
    copyFileSync(file, `${folder}/copied.db`);
    const copied = await openStore(`sqlite:${folder}/copied.db`);
    expect(await copied.all("SELECT user_id FROM conversation")).toEqual([{ user_id: user }]);
    await copied.close();
  });
});

describe("the log of a store", () => {
  it("goes into the file beside whoever writes, and is kept short although a view held it", async () => {
    const file = `${folder}/log.db`;
    const { store } = await filled(`sqlite:${file}`);
    const sizeOf = (name: string) => Math.round(statSync(name).size / 2 ** 20);
    await store.run("CREATE TABLE heap (bytes BLOB)");
    const fill = (bytes: number) => store.run("INSERT INTO heap VALUES (zeroblob(?))", [bytes]);
    const view = new Database(file);
    view.exec("BEGIN");
    view.prepare("SELECT 1 FROM heap").all([]);
    await fill(66 * 2 ** 20);
    for (let i = 0; i < 40; i++) await fill(1);
    expect(sizeOf(file)).toBe(0);
    expect(sizeOf(`${file}-wal`)).toBeGreaterThan(64);
    view.exec("COMMIT");
    const filling = async () => {
      await fill(1);
      return sizeOf(`${file}-wal`);
    };
    await expect.poll(filling, { interval: 5, timeout: 20_000 }).toBe(16);
    expect(sizeOf(file)).toBe(66);
    await store.close();
    view.close();
  });
});

describe("several processes", { timeout: 120_000 }, () => {
  it("write to one file, and lose or double nothing", async () => {
    const address = `sqlite:${folder}/two.db`;
    const { store, user, conversation } = await filled(address);
    const writers = ["one", "two"].map((name) => new Writer([address, user, conversation, name, 150]));
    for (let i = 0; i < 50; i++) await addMessage(store, user, conversation, "meanwhile");
    await Promise.all(writers.map(({ ended }) => ended));
    expect(writers.map(({ error, kept }) => [error, kept.length])).toEqual([
      [null, 150],
      [null, 150],
    ]);
    const contents = await store.all<{ content: string }>("SELECT content FROM message");
    expect(contents).toHaveLength(350);
    for (const name of ["one", "two"]) {
      const own = new Set(
        contents.map(({ content }) => content).filter((content) => content.startsWith(name)),
      );
      expect(own.size).toBe(150);
      expect((await searchMessages(store, user, `wrote ${name}x149`)).hits).toHaveLength(1);
    }
    await store.run("UPDATE message SET status = 'streaming' WHERE content = 'meanwhile'");
    expect((await checkStore(store)).problems).toEqual([]);
    await store.close();
  });

  it("killed while they write have kept what they said", async () => {
    await killWriters(`sqlite:${folder}/killed.db`, 2);
  });

  it("that hang are told to whoever waits", async () => {
    const file = path.join(folder, "held.db");
    const { store, user } = await filled(`sqlite:${file}`);
    await store.close();
    const other = new Database(file);
    other.exec("BEGIN IMMEDIATE");
    const waiting = await openStoreAsIs(`sqlite:${file}`, { patienceMs: 300 });
    let ticks = 0;
    const timer = setInterval(() => ticks++, 10);
    await expect(addConversation(waiting, user)).rejects.toMatchObject({
      code: "store_busy",
      message: expect.stringMatching(/held\.db has been held by another process for \d s/),
    });
    clearInterval(timer);
    expect(ticks).toBeGreaterThan(3); // the event loop went on
    expect(await waiting.all("SELECT count(*) AS n FROM conversation")).toEqual([{ n: 1 }]);
    setTimeout(() => other.exec("COMMIT"), 100);
    await addConversation(waiting, user);
    expect(await waiting.all("SELECT count(*) AS n FROM conversation")).toEqual([{ n: 2 }]);
    other.close();
    await waiting.close();
  });
});

describe("a disk", { timeout: 120_000 }, () => {
  it("that is full keeps what was there, and is told in one line", async () => {
    const { store, user, conversation } = await filled(`sqlite:${folder}/full.db`);
    await addMessage(store, user, conversation, "before");
    await store.run("PRAGMA max_page_count = 90");
    const write = async () => {
      for (let i = 0; i < 100; i++) await addMessage(store, user, conversation, "x".repeat(5000));
    };
    const full = {
      code: "disk_full",
      message: expect.stringMatching(/^no space left on the disk for .*full\.db: free some space/),
    };
    await expect(write()).rejects.toMatchObject(full);
    const count = async () => (await store.all<{ n: number }>("SELECT count(*) AS n FROM message"))[0]!.n;
    const before = await count();
    expect(before).toBeGreaterThan(1);
    await expect(
      store.transaction(async (tx) => {
        for (let i = 0; i < 20; i++) await addMessage(tx, user, conversation, "y".repeat(5000));
      }),
    ).rejects.toMatchObject(full);
    expect(await count()).toBe(before);
    await store.run("PRAGMA max_page_count = 100000");
    await addMessage(store, user, conversation, "after");
    expect(await count()).toBe(before + 1);
    await store.close();
  });

  it("that really is full does the same", async ({ skip }) => {
    const [mount, after] = [path.join(folder, "small"), path.join(folder, "after")];
    for (const one of [mount, after]) mkdirSync(one);
    const { store, user, conversation } = await filled(`sqlite:${folder}/real.db`);
    await store.close();
    const kilobytes = Math.ceil(statSync(`${folder}/real.db`).size / 1024) + 600;
    // A small disk that this command alone sees; what is on it at the end is copied out.
    const steps = [
      `mount -t tmpfs -o size=${kilobytes}k none ${mount}`,
      `cp ${folder}/real.db ${mount}/kiln.db`,
      `{ "$@"; cp ${mount}/* ${after}; }`,
    ];
    const command = ["unshare", "-m", "sh", "-c", steps.join(" && "), "sh"];
    try {
      execFileSync("unshare", ["-m", "mount", "-t", "tmpfs", "none", mount], { stdio: "ignore" });
    } catch {
      return skip("no right to mount a small disk");
    }
    const writer = new Writer([`sqlite:${mount}/kiln.db`, user, conversation, "w", 1e6], { command });
    await writer.ended;
    expect(writer.error).toMatch(
      /^no space left on the disk for .*kiln\.db: free some space and try again; .* intact$/,
    );
    expect(writer.kept.length).toBeGreaterThan(10);
    const found = await openStore(`sqlite:${after}/kiln.db`);
    const ids = (await found.all<{ id: string }>("SELECT id FROM message")).map(({ id }) => id);
    expect(ids.sort()).toEqual([...writer.kept].sort());
    expect((await checkStore(found)).problems).toEqual([]);
    await found.close();
  });

  it("that may not be written is told in one line", async ({ skip }) => {
    if (process.getuid?.() !== 0) return skip("needs another user");
    const closed = path.join(folder, "closed");
    mkdirSync(closed, { mode: 0o755 });
    const told = async (file: string) => {
      const writer = new Writer([`sqlite:${file}`, "u", "c", "w", 1], { uid: 65534 });
      await writer.ended;
      return writer.error;
    };
    const message =
      /may not be written by this user: choose another folder; what was saved before is intact$/;
    expect(await told(path.join(closed, "kiln.db"))).toMatch(message);
    expect(await told(path.join(closed, "deeper", "kiln.db"))).toMatch(message);
    const { store } = await filled(`sqlite:${closed}/kiln.db`);
    await store.close();
    expect(await told(path.join(closed, "kiln.db"))).toMatch(message);
    expect(readdirSync(closed).filter((name) => !name.startsWith("kiln.db"))).toEqual([]);
  });

  it("whose file is damaged, or another's, is told and not touched", async () => {
    const text = path.join(folder, "text.db");
    writeFileSync(text, "not a database, but something somebody needs".repeat(100));
    await expect(openStore(`sqlite:${text}`)).rejects.toMatchObject({
      code: "store_damaged",
      message: expect.stringMatching(/text\.db is damaged, or no SQLite database: put a backup in its place/),
    });
    const cut = path.join(folder, "cut.db");
    const { store, user, conversation } = await filled(`sqlite:${cut}`);
    for (let i = 0; i < 50; i++) await addMessage(store, user, conversation, "x".repeat(2000));
    await store.close();
    truncateSync(cut, 100_000);
    const damaged = openStoreAsIs(`sqlite:${cut}`, { existing: true }).then(async (open) => {
      try {
        return (await checkStore(open)).problems;
      } finally {
        await open.close();
      }
    });
    await damaged.then(
      (problems) => expect(problems).not.toEqual([]),
      (error) => expect(error.code).toBe("store_damaged"),
    );
    expect(existsSync(`${folder}/none.db`)).toBe(false);
    await expect(openStoreAsIs(`sqlite:${folder}/none.db`, { existing: true })).rejects.toThrow(
      "there is no store at",
    );
    expect(existsSync(`${folder}/none.db`)).toBe(false);
  });
});
