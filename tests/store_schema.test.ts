import { readdirSync } from "node:fs";
import path from "node:path";
import { describe, expect, test } from "vitest";
import { asHttpError } from "../serve/http/errors.ts";
import { checkStore } from "../serve/store/check.ts";
import { copyStore, digests } from "../serve/store/copy.ts";
import { indexMessages, openStore, openStoreAsIs, searchMessages } from "../serve/store/index.ts";
import { checksum, newest, schemaOf } from "../serve/store/migrate.ts";
import { migrations } from "../serve/store/migrations/index.ts";
import { eachStore } from "./support/each_store.ts";
import { addConversation, addMessage, addUser } from "./support/store_rows.ts";

const { folder, kinds, isThere, addressOf, itOn } = eachStore("kiln-schema-");

describe.each(kinds)("a store on %s", (kind) => {
  const it = itOn(kind);

  it("comes up from every earlier schema with its data, after a backup", async () => {
    for (let from = 1; from < newest; from++) {
      const address = addressOf(kind, `from_${from}`);
      const backups = path.join(folder, `backups_${kind}_${from}`);
      const old = await openStoreAsIs(address);
      await old.migrate({ to: from, backupFolder: backups });
      const owner = await addUser(old);
      const conversation = await addConversation(old, owner);
      await addMessage(old, owner, conversation, "from before");
      await addMessage(old, owner, conversation, "half an ans", { status: "streaming" });
      const before = (await digests(old)).slice(0, 5);
      await old.migrate({ backupFolder: backups });
      expect((await digests(old)).slice(0, 5)).toEqual(before);
      expect((await searchMessages(old, owner, "before")).hits).toHaveLength(from < 4 ? 1 : 0);
      if (from < 4) expect((await checkStore(old)).problems).toEqual([]);
      await old.close();
      const [file] = readdirSync(backups);
      const backup = await openStoreAsIs(`sqlite:${backups}/${file}`);
      expect(await schemaOf(backup)).toBe(from);
      expect(await digests(backup)).toEqual(expect.arrayContaining(before));
      await backup.close();
    }
  }, 120_000);

  it("is opened by several at once, of which one migrates", async () => {
    const address = addressOf(kind, "together");
    const stores = await Promise.all([1, 2, 3].map(() => openStore(address)));
    for (const one of stores) {
      expect(await schemaOf(one)).toBe(newest);
      await one.close();
    }
  });

  it("refuses a store of a newer kiln, and a migration that was changed", async () => {
    const address = addressOf(kind, "newer");
    const newer = await openStore(address);
    await newer.run("UPDATE schema_version SET checksum = 'x', kiln = '0.0.9' WHERE version = 2");
    await expect(openStore(address)).rejects.toThrow(/got schema 2 \(feedback\) from kiln 0\.0\.9/);
    await newer.run(
      "INSERT INTO schema_version (version, name, applied_at, checksum, kiln) VALUES (99, 'x', 1, 'x', '9.9.9')",
    );
    await newer.close();
    // Who asks a server with it is told as much, and no path.
    const error = await openStore(address).catch((reason) => asHttpError(reason));
    expect(error).toMatchObject({ status: 503, code: "store_newer" });
    expect((error as Error).message).toMatch(/^the store is of a newer kiln.*update this one$/);
    await expect(openStore(address)).rejects.toMatchObject({
      code: "store_newer",
      message: expect.stringMatching(
        /was written by kiln 9\.9\.9 with schema 99; .*update kiln, or use a backup/,
      ),
    });
  });

  it("changes nothing where a migration fails", async () => {
    const half = await openStoreAsIs(addressOf(kind, "half"));
    await half.migrate({ to: 2 });
    await half.run("CREATE TABLE job_event (x TEXT)"); // in the way of the third
    await expect(half.migrate()).rejects.toThrow(/job_event/);
    expect(await schemaOf(half)).toBe(2);
    await expect(half.all("SELECT 1 FROM job")).rejects.toMatchObject({ code: "store_sql" });
    await half.run("DROP TABLE job_event");
    await half.migrate();
    expect(await schemaOf(half)).toBe(newest);
    await half.close();
  });

  it("backs up while others write, and finds what is wrong", async () => {
    const busy = await openStore(addressOf(kind, "busy"));
    const owner = await addUser(busy);
    const conversation = await addConversation(busy, owner);
    const write = async () => {
      for (let i = 0; i < 40; i++) {
        const content = `message ${i}`;
        await busy.transaction(async (tx) => {
          const id = await addMessage(tx, owner, conversation, content);
          await indexMessages(tx, [{ id, user_id: owner, content }]);
        });
      }
    };
    const file = path.join(folder, `${kind}-backup.db`);
    await Promise.all([write(), busy.backup(file)]);
    await expect(busy.backup(file)).rejects.toThrow("exists already");
    expect(readdirSync(folder).filter((name) => name.startsWith(`${kind}-backup`))).toEqual([
      `${kind}-backup.db`,
    ]);
    const copy = await openStore(`sqlite:${file}`);
    const [{ n }] = (await copy.all<{ n: number }>("SELECT count(*) AS n FROM message")) as [{ n: number }];
    expect((await searchMessages(copy, owner, "message", { limit: 100 })).hits).toHaveLength(n);
    expect((await checkStore(copy)).problems).toEqual([]);
    await copy.run("UPDATE message SET parent_id = 'none' WHERE id = (SELECT max(id) FROM message)");
    await addMessage(copy, owner, conversation, "never indexed");
    await copy.run("UPDATE conversation SET leaf_id = 'none'");
    expect((await checkStore(copy)).problems).toEqual([
      ...(n > 0 ? ["1 messages follow a message that is not in their conversation"] : []),
      "1 conversations show a message that they do not have",
      "1 messages are not in the full-text index",
    ]);
    await copy.close();
    await busy.close();
  });
});

describe("a copy", () => {
  const pairs = [
    ["sqlite", "sqlite"],
    ["sqlite", "postgres"],
    ["postgres", "sqlite"],
    ["postgres", "postgres"],
  ] as const;
  test.each(pairs)("from %s to %s is equal, and can be searched", async (from, to) => {
    if (!isThere(from) || !isThere(to)) return;
    const source = await openStore(addressOf(from, `copy_${from}_${to}_a`));
    const target = await openStoreAsIs(addressOf(to, `copy_${from}_${to}_b`));
    const owner = await addUser(source, "Zoë \u{1f600}");
    const conversation = await addConversation(source, owner);
    for (let i = 0; i < 1203; i += 401)
      await source.transaction(async (tx) => {
        for (let j = i; j < i + 401; j++) await addMessage(tx, owner, conversation, `needle ${j} é 😀\n`);
      });
    await source.run("INSERT INTO event (at, kind, value) VALUES (1, 'a', 0.1), (2, 'b', 1e300)");
    const copied = await copyStore(source, target);
    expect(copied).toEqual(await digests(source));
    expect(copied).toEqual(await digests(target));
    expect(copied.find(({ table }) => table === "message")!.rows).toBe(1203);
    expect((await searchMessages(target, owner, "needle 1202")).hits).toHaveLength(1);
    await target.run("INSERT INTO event (at, kind) VALUES (3, 'c')");
    expect((await target.all("SELECT count(*) AS n FROM event"))[0]).toEqual({ n: 3 });
    await expect(copyStore(source, target)).rejects.toThrow("holds data already (user_account)");
    await source.close();
    await target.close();
  });
});

test("migrations that were released are as they were", () => {
  expect(
    Object.fromEntries(migrations.map((migration) => [migration.name, checksum(migration).slice(0, 12)])),
  ).toEqual({
    branches: "b94478685ef2",
    comparisons: "1cfac5a97d48",
    conversations: "de5d205d426b",
    feedback: "3292c15986d5",
    jobs: "977b0cb1fa1a",
    search: "4868bf2d4b27",
    server_runs: "49d61f9c7e8f",
    notices: "a70ad948ee5b",
    documents: "3ebda79b2cbb",
    notice_posts: "c6223ad06311",
  });
});
