import fc from "fast-check";
import { afterAll, beforeAll, describe, expect } from "vitest";
import {
  indexMessages,
  newId,
  type OpenStore,
  openStore,
  type Store,
  searchMessages,
  type Value,
} from "../serve/store/index.ts";
import { words } from "../serve/store/search.ts";
import { eachStore } from "./support/each_store.ts";
import { addConversation, addMessage, addUser } from "./support/store_rows.ts";

const { kinds, isThere, addressOf, itOn } = eachStore("kiln-store-");

describe.each(kinds)("a store on %s", (kind) => {
  let store: OpenStore;
  let user: string;
  beforeAll(async () => {
    if (!isThere(kind)) return;
    store = await openStore(addressOf(kind, "contract"));
    user = await addUser(store);
  });
  afterAll(async () => store?.close());
  const it = itOn(kind);

  it("gives back what it was given", async () => {
    await store.run("CREATE TABLE kept (id INTEGER PRIMARY KEY, t TEXT, n BIGINT, r DOUBLE PRECISION)");
    const text = fc.string({ unit: "grapheme", maxLength: 40 }).filter((value) => !value.includes("\0"));
    await fc.assert(
      fc.asyncProperty(
        text,
        fc.maxSafeInteger(),
        fc.double({ noNaN: true, noDefaultInfinity: true }),
        async (t, n, r) => {
          const [row] = await store.all(
            "INSERT INTO kept (id, t, n, r) VALUES (1, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET t = excluded.t, n = excluded.n, r = excluded.r RETURNING t, n, r",
            [t, n, r],
          );
          expect(row).toEqual({ t, n: n + 0, r: r + 0 });
        },
      ),
      { numRuns: 60 },
    );
    const [row] = await store.all(
      "SELECT 1 = 1 AS yes, 1 > 2 AS no, count(*) AS n, sum(n) IS NULL AS none, NULL AS empty FROM kept WHERE id = 0",
    );
    expect(row).toEqual({ yes: 1, no: 0, n: 0, none: 1, empty: null });
    await store.run("UPDATE kept SET t = ?, n = ?, r = ?", ["half \ud83d of a pair", true, 5n]);
    expect(await store.all("SELECT t, n, r FROM kept")).toEqual([{ t: "half \ufffd of a pair", n: 1, r: 5 }]);
  });

  it("keeps bytes as bytes", async () => {
    await store.run(`CREATE TABLE bytes (b ${kind === "sqlite" ? "BLOB" : "BYTEA"})`);
    const floats = Float32Array.of(1.5, -2, 3e-9);
    await store.run("INSERT INTO bytes VALUES (?)", [floats]);
    const [row] = await store.all<{ b: Uint8Array }>("SELECT b FROM bytes");
    expect(row!.b.constructor).toBe(Uint8Array);
    expect(new Float32Array(row!.b.slice().buffer)).toEqual(floats);
    await store.run("UPDATE bytes SET b = ?", [Buffer.from([0, 255])]);
    expect(await store.all("SELECT b FROM bytes")).toEqual([{ b: Uint8Array.of(0, 255) }]);
  });

  it("refuses what either database would lose, change or break on", async () => {
    const bind = (...values: unknown[]) => store.all("SELECT ? AS x", values as Value[]);
    for (const value of [
      "a\0b",
      Number.NaN,
      Number.POSITIVE_INFINITY,
      2n ** 60n,
      undefined,
      {},
      new Date(),
      [1],
      Symbol.iterator,
    ])
      await expect(bind(value)).rejects.toMatchObject({ code: "store_value" });
    await expect(bind()).rejects.toThrow("has 1 ?, but 0 values");
    await expect(bind(1, 2)).rejects.toThrow("has 1 ?, but 2 values");
    for (const sql of [
      "SELECT 1; DELETE FROM message",
      "SELECT $1",
      "SELECT :a",
      "SELECT ?1",
      "SELECT '1'::int",
    ])
      await expect(store.all(sql, [])).rejects.toMatchObject({ code: "store_sql" });
    const [row] = await store.all("SELECT '?; :x' AS a, 1 /* ? */ AS \"b?\" -- ?\n", []);
    expect(row).toEqual({ a: "?; :x", "b?": 1 });
  });

  it("tells apart why a row may not be", async () => {
    const id = await addConversation(store, user);
    const code = (sql: string, values: Value[] = []) => expect(store.run(sql, values)).rejects;
    await code(
      "INSERT INTO user_account (id, name, role, created_at) SELECT 'other', name, role, 0 FROM user_account",
    ).toMatchObject({ code: "store_unique" });
    await code("UPDATE user_account SET role = 'king'").toMatchObject({ code: "store_check" });
    await code("UPDATE conversation SET user_id = 'nobody' WHERE id = ?", [id]).toMatchObject({
      code: "store_foreign_key",
    });
    await code("UPDATE conversation SET user_id = NULL WHERE id = ?", [id]).toMatchObject({
      code: "store_not_null",
    });
    await code("UPDATE conversation SET created_at = ? WHERE id = ?", [1.5, id]).toMatchObject({
      code: "store_type",
    });
    await code("UPDATE conversation SET created_at = ? WHERE id = ?", ["soon", id]).toMatchObject({
      code: "store_type",
    });
    await code("SELEC").toMatchObject({ code: "store_sql" });
    await code("UPDATE nothing SET x = 1").toMatchObject({ code: "store_sql" });
    expect(await store.run("UPDATE conversation SET title = ? WHERE id = ?", ["new", id])).toBe(1);
    expect(await store.run("UPDATE conversation SET title = ? WHERE id = ?", ["new", "none"])).toBe(0);
  });

  it("compares text by code point, and LIKE by case", async () => {
    const names = ["b", "A", "a", "Z", "ä", "\u{1f600}", "\uffee", ""];
    const values = names.map(() => "(?)").join(", ");
    const rows = await store.all(
      `WITH v(x) AS (VALUES ${values}) SELECT x FROM v ORDER BY x COLLATE ${kind === "sqlite" ? "BINARY" : '"C"'}`,
      names,
    );
    await store.run(
      "CREATE TABLE named (name TEXT PRIMARY KEY)".replace(
        "TEXT",
        kind === "sqlite" ? "TEXT" : 'TEXT COLLATE "C"',
      ),
    );
    for (const name of names) await store.run("INSERT INTO named VALUES (?)", [name]);
    const sorted = [...names].sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)));
    expect((await store.all("SELECT name FROM named ORDER BY name")).map(({ name }) => name)).toEqual(sorted);
    expect(rows.map(({ x }) => x)).toEqual(sorted);
    expect(await store.all("SELECT name FROM named WHERE name LIKE 'a%'")).toEqual([{ name: "a" }]);
  });

  it("does a transaction whole or not at all", async () => {
    const count = async () =>
      (await store.all<{ n: number }>("SELECT count(*) AS n FROM conversation"))[0]!.n;
    const before = await count();
    const failing = store.transaction(async (tx) => {
      await addConversation(tx, user);
      expect(await tx.all("SELECT count(*) AS n FROM conversation")).toEqual([{ n: before + 1 }]);
      await expect(count()).rejects.toThrow("inside a transaction call its tx");
      throw new Error("no");
    });
    await expect(failing).rejects.toThrow("no");
    expect(await count()).toBe(before);
    const result = await store.transaction(async (tx) => {
      await addConversation(tx, user);
      await tx
        .transaction(async (inner) => {
          await addConversation(inner, user);
          await inner.run("UPDATE user_account SET role = 'king'");
        })
        .catch((error) => expect(error.code).toBe("store_check"));
      await tx.transaction((inner) => addConversation(inner, user));
      return "done";
    });
    expect(result).toBe("done");
    expect(await count()).toBe(before + 2);
    const swallowed = store.transaction(async (tx) => {
      await addConversation(tx, user);
      await tx.run("UPDATE user_account SET role = 'king'").catch(() => {});
    });
    await expect(swallowed).rejects.toThrow("catch such errors around an inner one");
    let escaped: Store | null = null;
    await store.transaction(async (tx) => {
      escaped = tx;
    });
    await expect(escaped!.run("DELETE FROM conversation")).rejects.toThrow("has ended");
    expect(await count()).toBe(before + 2);
  });

  it("runs transactions as if one after the other", async () => {
    await store.run("CREATE TABLE ticket (n BIGINT)");
    await Promise.all(
      Array.from({ length: 12 }, () =>
        store.transaction(async (tx) => {
          const [row] = await tx.all<{ n: number }>("SELECT count(*) AS n FROM ticket");
          await new Promise((resolve) => setTimeout(resolve, 1));
          await tx.run("INSERT INTO ticket VALUES (?)", [row!.n]);
        }),
      ),
    );
    const numbers = (await store.all<{ n: number }>("SELECT n FROM ticket ORDER BY n")).map(({ n }) => n);
    expect(numbers).toEqual(Array.from({ length: 12 }, (_, i) => i));
  });

  it("is like a model in memory, whatever is done", async () => {
    const operation = fc.oneof(
      fc.record({ do: fc.constant("conversation" as const) }),
      fc.record({ do: fc.constant("message" as const), at: fc.nat(), parent: fc.nat(), text: fc.string() }),
      fc.record({ do: fc.constant("edit" as const), at: fc.nat(), text: fc.string() }),
      fc.record({ do: fc.constant("rate" as const), at: fc.nat(), rating: fc.constantFrom(-1, 1) }),
      fc.record({ do: fc.constant("delete" as const), at: fc.nat() }),
    );
    const steps = fc.array(
      fc.record({ operations: fc.array(operation, { maxLength: 5 }), fails: fc.boolean() }),
      {
        maxLength: 8,
      },
    );
    await fc.assert(
      fc.asyncProperty(steps, async (all) => {
        const owner = await addUser(store);
        let model = new Model();
        for (const { operations, fails } of all) {
          const trial = model.copy();
          const result = store.transaction(async (tx) => {
            for (const one of operations) await apply(tx, owner, trial, one);
            if (fails) throw new Error("on purpose");
          });
          await result.then(
            () => {
              model = trial;
            },
            (error) => expect(error.message).toBe("on purpose"),
          );
        }
        const rows = await store.all<{ id: string }>(
          "SELECT m.id, m.conversation_id, m.parent_id, m.content, f.rating FROM message m LEFT JOIN feedback f ON f.message_id = m.id WHERE m.user_id = ? ORDER BY m.id",
          [owner],
        );
        expect(rows).toEqual(model.rows());
        const kept = await store.all("SELECT id FROM conversation WHERE user_id = ? ORDER BY id", [owner]);
        expect(kept.map(({ id }) => id)).toEqual([...model.conversations].sort());
      }),
      { numRuns: kind === "sqlite" ? 40 : 10 },
    );
  }, 120_000);

  it("finds exactly the messages that hold the words", async () => {
    const vocabulary = [
      "red",
      "Redder",
      "café",
      "CAFE",
      "naïve",
      "机器学习",
      "学",
      "x1",
      "1",
      "дом",
      "don't",
      "-",
      "हिन्दी",
      "ß",
    ];
    const text = fc.array(fc.constantFrom(...vocabulary), { maxLength: 6 }).map((list) => list.join(" "));
    await fc.assert(
      fc.asyncProperty(
        fc.array(text, { maxLength: 8 }),
        fc.array(text, { minLength: 1, maxLength: 4 }),
        async (texts, queries) => {
          const owner = await addUser(store);
          const conversation = await addConversation(store, owner);
          const messages = texts.map((content) => ({ id: newId(), user_id: owner, content }));
          await store.transaction(async (tx) => {
            for (const { id, content } of messages)
              await addMessage(tx, owner, conversation, content, { id });
            await indexMessages(tx, messages);
          });
          for (const query of queries) {
            const asked = words(query, false);
            const wanted = messages.filter(({ content }) => {
              const has = words(content);
              const last = asked.length - 1;
              return asked.every((word, i) =>
                has.some((one) => (i === last ? one.startsWith(word) : one === word)),
              );
            });
            const { hits } = await searchMessages(store, owner, query, { limit: 100 });
            const found = asked.length === 0 ? [] : wanted.map(({ id }) => id);
            expect(hits.map(({ id }) => id).sort()).toEqual(found.sort());
          }
        },
      ),
      { numRuns: kind === "sqlite" ? 40 : 10 },
    );
  }, 120_000);

  it("searches in the messages of one user, newest first, page by page", async () => {
    const [mine, other] = [await addUser(store), await addUser(store)];
    const found = async (query: string) =>
      (await searchMessages(store, mine, query)).hits.map(({ content }) => content);
    const ids: string[] = [];
    for (const owner of [mine, other]) {
      const conversation = await addConversation(store, owner);
      for (let i = 0; i < 5; i++) {
        const content = `Needle number ${i} of ${owner === mine ? "mine" : "another"}`;
        const id = await addMessage(store, owner, conversation, content);
        await store.transaction((tx) => indexMessages(tx, [{ id, user_id: owner, content }]));
        if (owner === mine) ids.push(id);
      }
    }
    const pages: string[][] = [];
    let after: string | null = null;
    do {
      const page: Awaited<ReturnType<typeof searchMessages>> = await searchMessages(
        store,
        mine,
        "needle numb",
        { limit: 2, after },
      );
      pages.push(page.hits.map(({ content }) => content.slice(14, 15)));
      after = page.next;
    } while (after);
    expect(pages).toEqual([["4", "3"], ["2", "1"], ["0"]]);
    expect(await found(" another")).toEqual([]);
    for (const query of ["", "  ", '"', "'; DROP TABLE message; --", "owner:x OR mine", "* : & | !", other])
      expect(await found(query)).toEqual([]);
    expect(await found("3 MINE")).toHaveLength(1);
    await store.run("UPDATE message SET content = 'a stitch' WHERE id = ?", [ids[3]!]);
    await store.transaction((tx) => indexMessages(tx, [{ id: ids[3]!, user_id: mine, content: "a stitch" }]));
    expect(await found("3 mine")).toEqual([]);
    expect(await found("stit")).toEqual(["a stitch"]);
    await store.run("DELETE FROM message WHERE id = ?", [ids[4]!]);
    expect(await found("needle")).toHaveLength(3);
    await store.run("UPDATE conversation SET deleted_at = 1 WHERE user_id = ?", [mine]);
    expect(await found("needle")).toEqual([]);
  });

  it("indexes messages of any length", async () => {
    const conversation = await addConversation(store, user);
    const content = `${Array.from({ length: 60_000 }, (_, i) => `wörd${i}`).join(" ")} ${"x".repeat(100_000)}`;
    const id = await addMessage(store, user, conversation, content);
    await store.transaction((tx) => indexMessages(tx, [{ id, user_id: user, content }]));
    expect((await searchMessages(store, user, "word1000 word19")).hits.map((hit) => hit.id)).toEqual([id]);
  });

  it("counts its statements", async () => {
    const before = store.statements;
    await store.all("SELECT 1");
    await store.transaction(async (tx) => {
      await tx.run("UPDATE conversation SET title = 'x'");
      await tx.all("SELECT 1");
    });
    expect(store.statements - before).toBe(3);
  });
});

interface Operation {
  do: "conversation" | "message" | "edit" | "rate" | "delete";
  at?: number;
  parent?: number;
  text?: string;
  rating?: number;
}

class Model {
  conversations: string[] = [];
  messages = new Map<
    string,
    { conversation: string; parent: string | null; content: string; rating: number | null }
  >();

  copy(): Model {
    const model = new Model();
    model.conversations = [...this.conversations];
    model.messages = new Map([...this.messages].map(([id, message]) => [id, { ...message }]));
    return model;
  }

  rows() {
    return [...this.messages]
      .map(([id, { conversation, parent, content, rating }]) => ({
        ...{ id, conversation_id: conversation, parent_id: parent, content, rating },
      }))
      .sort((a, b) => (a.id < b.id ? -1 : 1));
  }
}

/** Does an operation to the store and to the model. */
async function apply(tx: Store, owner: string, model: Model, operation: Operation): Promise<void> {
  const { at = 0, text = "", rating = 1 } = operation;
  const content = text.replaceAll("\0", "");
  const ids = [...model.messages.keys()];
  const id = ids[at % ids.length];
  if (operation.do === "conversation") model.conversations.push(await addConversation(tx, owner));
  if (operation.do === "message" && model.conversations.length > 0) {
    const conversation = model.conversations[at % model.conversations.length]!;
    const earlier = ids.filter((one) => model.messages.get(one)!.conversation === conversation);
    const parent = earlier[operation.parent! % (earlier.length + 1)] ?? null;
    const added = await addMessage(tx, owner, conversation, content, { parent });
    model.messages.set(added, { conversation, parent, content, rating: null });
  }
  if (operation.do === "edit" && id) {
    await tx.run("UPDATE message SET content = ? WHERE id = ?", [content, id]);
    model.messages.get(id)!.content = content;
  }
  if (operation.do === "rate" && id) {
    await tx.run(
      "INSERT INTO feedback (id, message_id, user_id, rating, created_at) VALUES (?, ?, ?, ?, 1) ON CONFLICT (message_id, user_id) DO UPDATE SET rating = excluded.rating",
      [newId(), id, owner, rating],
    );
    model.messages.get(id)!.rating = rating;
  }
  if (operation.do === "delete" && model.conversations.length > 0) {
    const [gone] = model.conversations.splice(at % model.conversations.length, 1);
    await tx.run("DELETE FROM conversation WHERE id = ?", [gone!]);
    for (const [one, { conversation }] of model.messages)
      if (conversation === gone) model.messages.delete(one);
  }
}
