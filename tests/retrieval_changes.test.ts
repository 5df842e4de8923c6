import { expect, it, vi } from "vitest";
import { Searches } from "../serve/app/documents/search.ts";
import { type Encode, PassageIndex } from "../serve/app/retrieval/index.ts";
import { LatentIndex } from "../serve/app/retrieval/latent.ts";
import type { Store } from "../serve/store/index.ts";

/** What an index costs when a little of what it is made of changes: a notice of the board changes that of everybody. */

// Two ways to say each of some things, which share no word; the words that all share say nothing.
const things = Array.from({ length: 60 }, (_, i) => [`alpha${i} beta${i}`, `gamma${i} delta${i}`]);
const rows = things.map(([one, other], i) => ({
  ...{ id: `${i}`, document_id: `${i}`, ordinal: 0, name: "a.txt" },
  text: `Here is ${one} today. There is ${other} tomorrow.`,
}));

it("an encoder reads what is new alone, and the ranker stays, as long as little has changed", async () => {
  let [version, now] = [1, rows];
  const store = {
    all: async (sql: string) => (/FROM index_state/.test(sql) ? [{ version }] : now),
    run: async () => {},
  } as unknown as Store;
  let read = 0;
  const encode: Encode = async (texts) => {
    read += texts.length;
    const numbers = texts.map((text) => Number(/[a-z](\d+)/.exec(text)?.[1] ?? 0));
    return numbers.map((number) => Float32Array.from(things, (_, i) => (i === number ? 1 : 0)));
  };
  const searches = new Searches(store, () => encode);
  const ask = async () => {
    read = 0;
    const { passages, ranker } = await searches.search("ada", "omega7", 3);
    return [ranker, passages[0]!.id, read];
  };
  expect((await ask()).slice(0, 2)).toEqual(["encoder", "7"]);
  // A notice is posted, and another deleted: one passage and the question.
  [version, now] = [2, [{ ...rows[7]!, id: "new" }, ...rows.slice(1)]];
  expect(await ask()).toEqual(["encoder", "new", 2]);
  [version, now] = [3, now.slice(1)];
  expect(await ask()).toEqual(["encoder", "7", 1]);
  [version, now] = [4, rows.map((row) => ({ ...row, id: `again ${row.id}` }))];
  const [, id, all] = await ask();
  expect(id).toBe("again 7");
  expect(all).toBeGreaterThan(rows.length);
});

it("latent semantics keep their space, in which new passages stand where their words are", async () => {
  const topics = ["wing lift drag", "heat shock gas", "bread oven flour"].map((words) => words.split(" "));
  const passages = Array.from({ length: 60 }, (_, i) => {
    const words = topics[i % 3]!;
    return { document: `${i}`, title: "", text: `${words[i % 2]} ${words[1 + (i % 2)]} n${i}` };
  });
  const before = new PassageIndex(passages.slice(0, 57));
  await before.prepare("hybrid");
  const made = vi.spyOn(LatentIndex, "of");
  const after = new PassageIndex(passages.toReversed());
  await after.prepareFrom(
    before,
    passages.map((_, i) => (59 - i < 57 ? 59 - i : -1)),
    "hybrid",
  );
  expect(made).not.toHaveBeenCalled();
  // "oven" alone: the passages with "flour" are near by the company that both words keep, the three new ones like the others.
  const found = after.rank("oven", 60, "hybrid").chunks;
  const topic = [...found].slice(0, 20).map((chunk) => (59 - chunk) % 3);
  expect(topic).toEqual(Array(20).fill(2));
  expect([...found].slice(0, 20)).toContain(0);
});
