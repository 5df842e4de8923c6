import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { withChatTemplate } from "../tokenizer/index.ts";
import { jaccard, shinglesOf } from "../tokenizer/text/near_duplicates.ts";
import { wordsOf } from "../tokenizer/text/normalise.ts";
import { previewChats } from "../train/data/chat_preview.ts";
import { trainingFormats } from "../train/data/conversations/formatter.ts";
import {
  type ConversationRecord,
  conversationStatistics,
  DataCleaner,
  DatasetBuilder,
  importConversations,
  loadDataConfig,
  splitConversations,
  splitFraction,
  TokenizerUtils,
} from "../train/data/conversations/index.ts";
import { toxicWord } from "../train/data/conversations/toxicity.ts";
import { recipe } from "../train/recipes/sft.ts";
import { loadSettings } from "../train/settings/load.ts";
import { lines, place, record, root, stories } from "./support/conversations.ts";

describe("filtering", () => {
  const good = (i: number) => [
    `Could you tell me about topic number ${i} please?`,
    `Topic ${i} is about the ${"abcdefghij"[i % 10]} of things, in short.`,
  ];
  const filter = async (list: ConversationRecord[], options = {}) =>
    new DataCleaner(options).filterConversations(list);

  it("has a reason for each that it drops, the first that holds", async () => {
    const cases: [string, ConversationRecord, object?][] = [
      [
        "private_data",
        record("x", ["Please write to me at bob@example.com", "I will do that soon."]),
        { email: "drop" },
      ],
      ["empty", record("x", ["https://example.com/page", "That is a nice page."]), { url: "remove" }],
      ["too_short", record("x", ["Hi", "Hello, how can I help you?"])],
      ["too_long", record("x", ["Tell me everything.", "different words here ".repeat(60)])],
      ["low_information", record("x", ["Please count for me.", "one two three four ".repeat(7)])],
      [
        "repetitive",
        record("x", [
          "Please say it again.",
          "we went to the old market in town and then we went to the old market in town once more",
        ]),
      ],
      ["symbols", record("x", ["What is this about?", "#$%^&*()#$%^ab @!?<>{}"])],
      [
        "language",
        record("x", ["Wie ist das Wetter heute in Berlin?", "Heute scheint die Sonne und es ist warm."]),
        { languages: ["eng"] },
      ],
      ["toxic", record("x", ["What do you think of him?", "He is a complete motherf*cker, really."])],
      ["refusal_or_echo", record("x", ["How do I make a cake?", "I'm sorry, but I can't assist with that."])],
      ["refusal_or_echo", record("x", ["What is a cake then?", "What is a cake, then"])],
      ["rating", record("x", good(1), { rating: -1 }), { min_rating: 0 }],
    ];
    for (const [reason, one, options] of cases) {
      const { kept, dropped } = await filter([one], options);
      expect([kept, dropped.map((drop) => drop.reason)], reason).toEqual([[], [reason]]);
    }
    const sound = [record("a", good(1)), record("b", good(2))];
    expect((await filter(sound)).kept).toEqual(sound);
  });

  it("agrees with a person on 200 conversations that were judged by hand", async () => {
    const rows = readFileSync(join(import.meta.dirname, "fixtures/cleaning/quality.txt"), "utf8")
      .split("\n")
      .filter((line) => line !== "" && !line.startsWith("#"))
      .map((line) => line.split("\t"));
    expect(rows.length).toBe(200);
    const list = rows.map(([, asked, answer], i) =>
      record(String(i), [asked, answer.replaceAll("\\n", "\n")]),
    );
    const { dropped } = await filter(list);
    const right = dropped.filter(({ id }) => rows[Number(id)][0] === "drop").length;
    const bad = rows.filter(([label]) => label === "drop").length;
    console.log(
      `precision ${(right / dropped.length).toFixed(3)}, recall ${(right / bad).toFixed(3)} of what is to be dropped`,
    );
    expect(right / dropped.length).toBeGreaterThan(0.95);
    expect(right / bad).toBeGreaterThan(0.9);
  });

  it("keeps one of several, by the policy", async () => {
    const near =
      "The quick brown fox jumps over the lazy dog near the river bank while the sun sets behind the old mill";
    const list = [
      record("late", [near, "That is a well known sentence."], { created_at: 3, rating: 1 }),
      record("first", [`${near}.`, "That is a well known sentence!"], { created_at: 1 }),
      record("near", [`${near} today`, "That is a well known sentence."], { created_at: 2 }),
      record("other", good(3), { created_at: 4 }),
    ];
    const ids = async (options: object) => (await filter(list, options)).kept.map(({ id }) => id);
    expect(await ids({})).toEqual(["first", "other"]);
    expect(await ids({ keep: "best" })).toEqual(["late", "other"]);
    expect(await ids({ keep: "drop_all" })).toEqual(["other"]);
    expect(await ids({ keep: "all" })).toEqual(["late", "first", "near", "other"]);
    expect(await ids({ near: 0 })).toEqual(["first", "near", "other"]);
    // A low rating takes itself out, and not the one that stays for it.
    expect(await ids({ min_rating: 1 })).toEqual(["late"]);
    const { dropped } = await filter(list);
    expect(dropped.map(({ id, reason, detail }) => [id, reason, detail])).toEqual([
      ["late", "exact_duplicate", "of first"],
      ["near", "near_duplicate", "of first"],
    ]);
    const against = { against: [record("test", [near, "That is a well known sentence."])] };
    expect(
      (await new DataCleaner({ keep: "all" }).filterConversations(list, against)).kept.map(({ id }) => id),
    ).toEqual(["other"]);
  });

  it("counts each conversation once, kept or dropped", async () => {
    const list = [
      ...stories(40),
      ...stories(10).map((one) => ({ ...one, id: `z ${one.id}` })),
      record("z", ["a", "b"]),
    ];
    const { kept, dropped } = await filter(list, { max_length: 5000 });
    expect([...kept, ...dropped].map(({ id }) => id).sort()).toEqual(list.map(({ id }) => id).sort());
    expect(kept.filter(({ id }) => id.startsWith("z"))).toEqual([]);
  });

  it("names options that do not exist", () => {
    expect(() => new DataCleaner({ min_lenght: 3 } as object)).toThrow(
      /DataCleaner: unknown key min_lenght; did you mean min_length/,
    );
    expect(() => new DataCleaner({ min_length: -1 })).toThrow(/min_length is -1; expected at least 0/);
  });

  it("takes no harmless word for an obscene one, and sees through disguises", () => {
    for (const word of [
      "The cockpit of a plane",
      "a peacock in Scunthorpe",
      "class assignment",
      "Dickens",
      "shiitake",
    ])
      expect(toxicWord(word), word).toBeNull();
    for (const word of ["you b1tch", "what the fuuuck", "sh!t"]) expect(toxicWord(word), word).not.toBeNull();
  });
});

/** Texts of which many are nearly the same, by a word at the end of 30. */
const letters = fc
  .tuple(fc.constantFrom(..."abcd"), fc.constantFrom(..."uvwxyz"))
  .map(([start, end]) => `${Array.from({ length: 30 }, (_, i) => `${start}${i}`).join(" ")} ${end}`);
const made = fc
  .array(
    fc.record({
      said: letters,
      answer: letters,
      session: fc.option(fc.nat(6), { nil: undefined }),
      at: fc.option(fc.nat(9), { nil: undefined }),
    }),
    { maxLength: 30 },
  )
  .map((all) =>
    all.map(({ said, answer, session, at }, i) =>
      record(`c${i}`, [said, answer], {
        ...(session !== undefined && { session_id: `s${session}` }),
        ...(at !== undefined && { created_at: at }),
      }),
    ),
  );

describe("splits", () => {
  const settings = { train: 0.6, val: 0.2, seed: 0, exact: false, stratify: undefined };
  const words = ({ messages }: ConversationRecord) =>
    shinglesOf(messages.flatMap(({ content }) => wordsOf(content)));

  it("never have a session or a near duplicate on two sides, and all of each list once", () => {
    fc.assert(
      fc.property(made, fc.boolean(), fc.nat(3), (list, exact, seed) => {
        const splits = splitConversations(list, { ...settings, exact, seed }, { near: 0.8 });
        const placed = Object.entries(splits).flatMap(([name, all]) =>
          all.map((one) => ({ name, one, shingles: words(one) })),
        );
        expect(placed.map(({ one }) => one.id).sort()).toEqual(list.map(({ id }) => id).sort());
        for (const a of placed)
          for (const b of placed) {
            if (a.name === b.name) continue;
            const [x, y] = [a.one.metadata.session_id, b.one.metadata.session_id];
            expect(x !== undefined && x === y).toBe(false);
            expect(jaccard(a.shingles, b.shingles)).toBeLessThan(0.8);
          }
      }),
      { numRuns: 120 },
    );
  });

  it("do not depend on the order, and move nothing when conversations are added", () => {
    fc.assert(
      fc.property(made, fc.array(fc.nat()), (list, keys) => {
        const mixed = [...list].sort((a, b) => (keys[list.indexOf(a)] ?? 0) - (keys[list.indexOf(b)] ?? 0));
        expect(splitConversations(mixed, settings, { near: 0.8 })).toEqual(
          splitConversations(list, settings, { near: 0.8 }),
        );
      }),
    );
    const sideOf = (splits: ReturnType<typeof splitConversations>) =>
      new Map(Object.entries(splits).flatMap(([name, all]) => all.map(({ id }) => [id, name] as const)));
    const before = stories(60).map((one) => ({ ...one, metadata: {} }));
    const more = [...before, ...stories(60, 1).map((one) => ({ ...one, id: `new ${one.id}`, metadata: {} }))];
    const [old, later] = [
      sideOf(splitConversations(before, settings)),
      sideOf(splitConversations(more, settings)),
    ];
    for (const [id, name] of old) expect(later.get(id)).toBe(name);
  });

  it("have the sizes that were asked for", () => {
    const list = Array.from({ length: 5000 }, (_, i) => record(`c${i}`, [`question ${i}`, `answer ${i}`]));
    const sizes = (exact: boolean) =>
      Object.values(splitConversations(list, { ...settings, train: 0.8, val: 0.1, exact })).map(
        ({ length }) => length,
      );
    const want = [4000, 500, 500];
    const chiSquare = sizes(false).reduce((sum, size, i) => sum + (size - want[i]) ** 2 / want[i], 0);
    expect(chiSquare).toBeLessThan(13.8); // p = 0.001 at two degrees of freedom
    expect(sizes(true)).toEqual(want);
    expect(splitFraction(0, "a")).not.toBe(splitFraction(1, "a"));
  });

  it("are alike in each stratum, and say where there is too little", () => {
    const warnings: string[] = [];
    const list = Array.from({ length: 105 }, (_, i) =>
      record(`c${i}`, [`question ${i}`, `answer ${i}`], { model: i < 5 ? "rare" : i % 2 ? "a" : "b" }),
    );
    const splits = splitConversations(
      list,
      { ...settings, stratify: "model" },
      { warn: (line) => warnings.push(line) },
    );
    const count = (side: ConversationRecord[], model: string) =>
      side.filter(({ metadata }) => metadata.model === model).length;
    for (const model of ["a", "b"])
      expect(Object.values(splits).map((side) => count(side, model))).toEqual([30, 10, 10]);
    expect(warnings).toEqual(["model rare has 5 groups: too few to be split evenly"]);
  });
});

describe("a dataset", () => {
  const builder = () =>
    new DatasetBuilder({ quality: { min_length: 1, max_length: 3000, toxic_words: false } });
  const bytes = (folder: string) =>
    readdirSync(folder).map((name) => [name, readFileSync(join(folder, name), "utf8")]);

  it("has the same bytes whatever the order of files and rows", async () => {
    let number = 0;
    const files = await fc.sample(fc.shuffledSubarray([0, 1, 2], { minLength: 3 }), 4);
    const list = [...stories(60), ...stories(12).map((one) => ({ ...one, id: `z ${one.id}` }))];
    const parts = [0, 1, 2].map((part) =>
      lines(
        `part${part}.jsonl`,
        list.filter((_, i) => i % 3 === part),
      ),
    );
    const built: unknown[] = [];
    for (const order of files) {
      const folder = place(`built${number++}`);
      await builder().build(await importConversations(order.map((part) => parts[part])), folder);
      built.push(bytes(folder));
    }
    for (const other of built) expect(other).toEqual(built[0]);
  });

  it("reports every row, and is replaced as a whole", async () => {
    const folder = place("report");
    const file = lines("some.jsonl", [
      ...stories(50),
      "{broken",
      ...stories(5).map((one) => ({ ...one, id: `x${one.id}` })),
    ]);
    const imported = await importConversations([file]);
    const report = await builder().build(imported, folder);
    const { counts, invalid, dropped, splits } = report;
    const sum = (all: object) => Object.values(all).reduce((a: number, b) => a + (b as number), 0);
    expect(counts.read).toBe(56);
    expect([sum(invalid), sum(dropped)]).toEqual([counts.invalid, counts.dropped]);
    expect(counts.kept).toBe(counts.read - counts.invalid - counts.dropped);
    expect(sum(Object.fromEntries(Object.entries(splits).map(([name, { rows }]) => [name, rows])))).toBe(
      counts.kept,
    );
    expect(JSON.parse(readFileSync(join(folder, "report.json"), "utf8"))).toEqual(
      JSON.parse(JSON.stringify(report)),
    );
    expect(readFileSync(join(folder, "dropped.jsonl"), "utf8").trim().split("\n").length).toBe(
      counts.dropped,
    );
    const again = await builder().build(imported, folder);
    expect(again).toEqual(report);
    writeFileSync(place("taken"), "");
    await expect(
      new DatasetBuilder({ quality: { min_length: 2000 } }).build(imported, place("none")),
    ).rejects.toThrow(/no conversation is left of 55: dropped as too_short 55/);
    expect(existsSync(place("none"))).toBe(false);
    await expect(builder().build(imported, root)).rejects.toThrow(/holds something else/);
  });

  it("is what kiln train sft reads, in every format, with its settings", async () => {
    const { tokenizer } = TokenizerUtils.bpe(["user assistant once upon a time"], 270);
    const list = stories(30);
    for (const name of trainingFormats) {
      const folder = place(`sft ${name}`);
      const training = { base: place("base"), rank: 4 };
      const config = {
        quality: { min_length: 1 },
        format: { name },
        training,
        evaluation: { prompts: ["Hello!"] },
      };
      const { splits } = await new DatasetBuilder(config).build(list, folder);
      const shown = await previewChats([join(folder, "train.jsonl")], withChatTemplate(tokenizer), {
        longest: 4096,
        colours: false,
      });
      expect(shown, name).toMatch(new RegExp(`conversations +${splits.train.rows}\n`));
      expect(shown, name).toContain("[[");
      const settings = await loadSettings(recipe, join(folder, "sft.yaml"));
      expect(settings.data.path).toEqual([join(folder, "train.jsonl")]);
      expect(settings.adapter).toMatchObject({ kind: "lora", rank: 4 });
      expect(settings.model.init_from).toBe(place("base"));
      expect(settings.sample.prompts).toEqual(["Hello!"]);
    }
  });

  it("has settings in one YAML, whose paths start from its folder and whose mistakes have a line", async () => {
    const shown = await loadDataConfig("docs/configs/conversations.yaml");
    expect(shown.split).toMatchObject({ train: 0.8, val: 0.1 });
    const yaml = lines("settings.yaml", ["sources: chats.jsonl", "clean:", "  region: DE", "  emial: drop"]);
    await expect(loadDataConfig(yaml)).rejects.toThrow(
      /settings\.yaml:4: unknown key clean\.emial; did you mean clean\.email\?/,
    );
    writeFileSync(yaml, "sources: chats.jsonl\nlogger: { path: log.jsonl }\n");
    expect(await loadDataConfig(yaml)).toMatchObject({
      sources: [place("chats.jsonl")],
      logger: { path: place("log.jsonl") },
    });
  });
});

describe("statistics", () => {
  it("equal a recount", () => {
    const list = stories(37).map((one, i) => ({
      ...one,
      metadata: { ...one.metadata, model: i % 2 ? "a" : "b" },
    }));
    const found = conversationStatistics(list);
    const lengths = list.map(({ messages }) => messages.length).sort((a, b) => a - b);
    const rank = (sorted: number[], q: number) => sorted.find((_, i) => (i + 1) / sorted.length >= q);
    const user = list.flatMap(({ messages }) =>
      messages.filter(({ role }) => role === "user").map(({ content }) => [...content].length),
    );
    expect(found).toMatchObject({
      total_conversations: 37,
      total_messages: lengths.reduce((a, b) => a + b, 0),
      turns: { p50: rank(lengths, 0.5), p95: rank(lengths, 0.95), max: Math.max(...lengths) },
      sessions: 17,
      conversations_per_session: 37 / 17,
      models: { a: 18, b: 19 },
      ratings: { up: 13, down: 24, rate: 13 / 37 },
    });
    expect(found.chars.user).toMatchObject({
      mean: user.reduce((a, b) => a + b, 0) / user.length,
      max: Math.max(...user),
    });
    expect(Object.values(found.per_day).reduce((a, b) => a + b, 0)).toBe(37);
    const words = list
      .flatMap(({ messages }) => messages.flatMap(({ content }) => wordsOf(content)))
      .slice(0, 10_000);
    expect(found.type_token_ratio).toBe(new Set(words).size / words.length);
  });

  it("count tokens with any tokenizer", async () => {
    const texts = ["abc", "a", "abcabc"];
    expect(await TokenizerUtils.char(texts).counts(texts)).toEqual([3, 1, 6]);
    expect(await TokenizerUtils.byte().counts(["é", "ab"])).toEqual([2, 2]);
    expect(await TokenizerUtils.char(texts).histogram(texts, 2)).toEqual([
      { from: 0, count: 1 },
      { from: 2, count: 1 },
      { from: 6, count: 1 },
    ]);
    expect(await TokenizerUtils.char(texts).truncation(texts, 2)).toEqual({
      over: 2,
      lost_tokens: 5,
      p50: 3,
      p95: 6,
      max: 6,
    });
  });
});
