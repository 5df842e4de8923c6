import { existsSync } from "node:fs";
import fc from "fast-check";
import { beforeAll, describe, expect, it, vi } from "vitest";
import { cranfield, ndcg, recall, xquad } from "../bench/retrieval_sets.ts";
import { encoderOf } from "../serve/app/documents/encoder.ts";
import { Searches } from "../serve/app/documents/search.ts";
import {
  type Block,
  CitationFilter,
  checkAnswer,
  chunksOf,
  countTokens,
  documentText,
  type Encode,
  neutral,
  type Passage,
  PassageIndex,
  promptOf,
  quoted,
  type Source,
  searchQuery,
  selfTest,
  sourcesWithin,
} from "../serve/app/retrieval/index.ts";
import { LatentIndex } from "../serve/app/retrieval/latent.ts";
import { best, LexicalIndex } from "../serve/app/retrieval/lexical.ts";
import { termsOf } from "../serve/app/retrieval/terms.ts";
import type { EncoderRunner } from "../serve/engine/encoder_runner.ts";
import { ModelPool } from "../serve/models.ts";
import type { Store } from "../serve/store/index.ts";
import { wordPieces } from "./support/word_pieces.ts";

const sentence = fc
  .array(
    fc.constantFrom("wing", "shock", "返品", "flow", "e.g.", "3.5", "naïve", "the", "Dr.", "x".repeat(40)),
    {
      minLength: 1,
      maxLength: 60,
    },
  )
  .map((words) => `${words.join(" ")}.`);
const block: fc.Arbitrary<Block> = fc.record({
  text: fc
    .array(sentence, { minLength: 0, maxLength: 12 })
    .chain((sentences) =>
      fc.constantFrom(" ", "\n", "\n\n", "   \n").map((between) => sentences.join(between)),
    ),
  page: fc.option(fc.integer({ min: 1, max: 3 }), { nil: undefined }),
  heading: fc.constantFrom(undefined, "One", "Two"),
  kind: fc.constantFrom("prose", "table", "code"),
});

describe("chunks", () => {
  it("are the document's text where they say, whole, and within the maximum", () => {
    fc.assert(
      fc.property(fc.array(block, { maxLength: 8 }), (blocks) => {
        const text = documentText(blocks);
        const chunks = chunksOf(blocks);
        const covered = new Uint8Array(text.length);
        for (const [i, chunk] of chunks.entries()) {
          expect(text.slice(chunk.start, chunk.end)).toBe(chunk.text);
          expect(chunk.text.trim()).not.toBe("");
          expect(chunk.ordinal).toBe(i);
          expect(chunk.tokens).toBe(countTokens(chunk.text));
          expect(chunk.tokens).toBeLessThanOrEqual(256);
          covered.fill(1, chunk.start, chunk.end);
          if (i > 0) expect(chunk.end).toBeGreaterThan(chunks[i - 1].end);
        }
        const left = text.replace(/[\s\S]/g, (sign, at: number) => (covered[at] ? "" : sign));
        expect(left.trim()).toBe("");
      }),
      { numRuns: 300 },
    );
  });

  it("repeat whole sentences, and never span pages or headings", () => {
    const prose = (page: number, heading: string) => ({
      text: Array.from(
        { length: 60 },
        (_, i) => `Page ${page} says its sentence number ${i} under ${heading}.`,
      ).join(" "),
      page,
      heading,
      kind: "prose" as const,
    });
    const chunks = chunksOf([prose(1, "One"), prose(1, "Two"), prose(2, "Two")]);
    for (const { text, page, heading } of chunks) {
      expect(text).toMatch(/^Page/);
      expect(text).toMatch(/\.$/);
      for (const said of text.matchAll(/Page (\d) says/g)) expect(Number(said[1])).toBe(page);
      for (const said of text.matchAll(/under (\w+)/g)) expect(said[1]).toBe(heading);
    }
    const first = chunks.filter(({ page, heading }) => page === 1 && heading === "One");
    expect(first.length).toBeGreaterThan(1);
    for (const [i, chunk] of first.slice(1).entries()) expect(chunk.start).toBeLessThan(first[i].end);
  });

  it("keep code's indentation and part tables between rows", () => {
    const code = `def f():\n    return 1\n\n    # more\n${"    x = 1\n".repeat(200)}`;
    const [first] = chunksOf([{ text: code, kind: "code" }]);
    expect(first.text).toMatch(/^def f\(\):\n {4}return 1/);
    const rows = Array.from({ length: 100 }, (_, i) => `name: item ${i}; price: ${i}.50; stock: 3`).join(
      "\n",
    );
    for (const { text } of chunksOf([{ text: rows, kind: "table" }]))
      for (const row of text.split("\n")) expect(row).toMatch(/^name: item \d+; price: \d+\.50; stock: 3$/);
  });
});

const word = fc.constantFrom(...Array.from({ length: 30 }, (_, i) => `w${i}`));
const texts = fc.array(fc.array(word, { maxLength: 30 }), { minLength: 1, maxLength: 25 });

describe("lexical search", () => {
  it("is BM25 with Lucene's idf, term by term", () => {
    fc.assert(
      fc.property(texts, fc.array(word, { maxLength: 6 }), (rows, asked) => {
        const found = new LexicalIndex(rows.map((row) => row.join(" "))).bm25(asked.join(" "), 10);
        const mean = rows.reduce((sum, row) => sum + row.length, 0) / rows.length;
        const score = (row: string[]) =>
          asked.reduce((sum, term) => {
            const n = rows.filter((other) => other.includes(term)).length;
            const tf = row.filter((each) => each === term).length;
            const idf = Math.log(1 + (rows.length - n + 0.5) / (n + 0.5));
            return sum + (tf === 0 ? 0 : (idf * tf * 2.2) / (tf + 1.2 * (0.25 + (0.75 * row.length) / mean)));
          }, 0);
        const scores = rows.map(score);
        expect(found.chunks.length).toBe(Math.min(10, scores.filter((each) => each > 0).length));
        const sorted = [...scores].sort((a, b) => b - a);
        for (const [i, chunk] of found.chunks.entries()) {
          expect(found.scores[i]).toBeCloseTo(scores[chunk], 5);
          expect(found.scores[i]).toBeCloseTo(sorted[i], 5);
        }
      }),
    );
  });

  it("finds by relevance feedback what shares no word with the question", () => {
    const index = new LexicalIndex([
      "wing lift slipstream",
      "wing slipstream propeller",
      "propeller noise",
      "tea",
    ]);
    expect([...index.bm25("wing", 10).chunks].sort()).toEqual([0, 1]);
    expect([...index.rm3("wing", 10).chunks].sort()).toEqual([0, 1, 2]);
  });

  it("takes the highest of many, ties by order", () => {
    fc.assert(
      fc.property(
        fc.array(fc.integer({ min: -2, max: 6 }), { maxLength: 60 }),
        fc.integer({ min: 0, max: 20 }),
        (values, most) => {
          const expected = [...values.keys()]
            .filter((i) => values[i] > 0)
            .sort((a, b) => values[b] - values[a] || a - b)
            .slice(0, most);
          expect([...best(Float64Array.from(values), most).chunks]).toEqual(expected);
        },
      ),
    );
  });

  it("reads scripts without spaces by pairs of signs", () => {
    expect(termsOf("返品ポリシー")).toEqual(["返品", "品ポ", "ポリ", "リシ", "シー"]);
    expect(termsOf("返".repeat(300_000))).toHaveLength(299_999);
    const index = new LexicalIndex(["商品の返品は三十日以内です。", "配送は無料です。"]);
    expect([...index.bm25("返品", 5).chunks]).toEqual([0]);
  });

  it("survives nothing at all", async () => {
    const index = new LexicalIndex([]);
    expect(index.bm25("a", 5).chunks.length + index.rm3("wing", 5).chunks.length).toBe(0);
    expect((await LatentIndex.of(index)).search("wing", 5).chunks.length).toBe(0);
    const none = new PassageIndex([]);
    await none.prepare("hybrid");
    expect(none.search("wing", 5, "hybrid")).toEqual([]);
    expect(new PassageIndex([passage("", "a")]).search("the", 5)).toEqual([]);
  });
});

const passage = (text: string, document: string): Passage => ({ text, document, title: "" });

describe("latent search", () => {
  it("brings texts together that share company and no word", async () => {
    const index = new LexicalIndex([
      ...["car engine motor", "automobile engine motor", "car motor road", "automobile motor road"],
      ...["cake sugar flour", "bread flour oven", "cake oven sugar", "bread sugar oven"],
    ]);
    const found = [...(await LatentIndex.of(index, 2)).search("car", 8).chunks].slice(0, 4).sort();
    expect(found).toEqual([0, 1, 2, 3]);
  });

  it("has the cosines of an exact projection where the rank is that of the matrix", async () => {
    const rows = ["a1 b1 c1", "b1 c1 d1", "d1 e1 a1", "c1 e1 b1 b1"];
    const index = new LexicalIndex(rows);
    const weights = rows.map((row) => {
      const vector = [..."abcde"].map((letter) => {
        const tf = row.split(" ").filter((each) => each === `${letter}1`).length;
        return tf === 0 ? 0 : (1 + Math.log(tf)) * index.idf(`${letter}1`);
      });
      const norm = Math.hypot(...vector);
      return vector.map((value) => value / norm);
    });
    const latent = await LatentIndex.of(index, 4);
    const { chunks, scores } = latent.search(rows[1], 4);
    for (const [i, chunk] of chunks.entries())
      expect(scores[i]).toBeCloseTo(
        weights[1].reduce((sum, value, j) => sum + value * weights[chunk][j], 0),
        5,
      );
  });
});

describe("answers from passages", () => {
  const index = new PassageIndex([
    ...[
      "Goods may be returned within 30 days. Keep the receipt. Shipping is free.",
      "Our shop opens at nine.",
    ].map((text) => passage(text, "shop")),
    ...Array.from({ length: 6 }, (_, i) => passage(`Returned goods, part ${i}: goods are returned.`, "long")),
  ]);

  it("take at most three passages of a document", () => {
    const found = index.search("returned goods", 8);
    expect(found.filter(({ passage: p }) => index.passages[p].document === "long").length).toBe(3);
  });

  it("are refused where the question's words are not there", () => {
    const answered = (query: string) => index.answers(query, index.search(query, 5));
    expect(answered("When can goods be returned?")).toBe(true);
    expect(answered("Who painted the ceiling of the chapel?")).toBe(false);
    expect(answered("")).toBe(false);
  });

  it("quote the sentences that the question is about", () => {
    const query = "Within how many days may goods be returned?";
    const found = { passage: 0, score: 1 };
    const spans = quoted(index, query, found, 1);
    expect(spans.map((span) => index.passages[0].text.slice(...span))).toEqual([
      "Goods may be returned within 30 days.",
    ]);
  });

  it("search for the turn before too where the last one leans on it", () => {
    expect(searchQuery(["What is the return policy of the shop?", "And for how long is it valid?"])).toMatch(
      /return policy/,
    );
    expect(
      searchQuery(["What is the return policy?", "Where is the nearest car park of your shop"]),
    ).not.toMatch(/policy/);
    expect(searchQuery([])).toBe("");
  });

  const source = (n: number, text: string): Source => ({ n, passage: n, name: "a.pdf", page: 3, text });

  it("keep citations that exist and count those that do not", () => {
    const sources = [
      source(1, "Goods may be returned within 30 days."),
      source(2, "The shop opens at nine."),
    ];
    const checked = checkAnswer(
      "Returns take 30 days [1][7]. Elephants sleep standing. The shop opens at nine.",
      sources,
    );
    expect(checked).toMatchObject({ cited: [1], invalid: 1 });
    expect(checked.text).not.toContain("[7]");
    expect(checked.unsupported.map((span) => checked.text.slice(...span))).toEqual([
      "Elephants sleep standing.",
    ]);
  });

  it("lose what no source has while they are written, in whatever pieces", () => {
    const piece = fc.oneof(
      fc.constantFrom("[", "]", "[1]", " [2]", "[12]", " [9", "]", " ", "\n", "[[1]]", "[007]", "12"),
      fc.string({ maxLength: 4 }),
    );
    fc.assert(
      fc.property(fc.array(piece, { maxLength: 30 }), (pieces) => {
        const whole = pieces.join("");
        const filter = new CitationFilter([1, 2]);
        const said = pieces.map((one) => filter.hear(one)).join("") + filter.rest();
        const valid = whole.replace(/[^\S\n]?\[(\d{1,3})\]/g, (mark, digits) =>
          Number(digits) === 1 || Number(digits) === 2 ? mark : "",
        );
        expect(said).toBe(valid);
      }),
    );
  });

  it("have only sources that fit, numbered in order", () => {
    const sources = [
      source(1, "one ".repeat(10)),
      source(2, "two ".repeat(500)),
      source(3, "three ".repeat(10)),
    ];
    const taken = sourcesWithin(sources, 60);
    expect(taken.map(({ n, passage: p }) => [n, p])).toEqual([
      [1, 1],
      [2, 3],
    ]);
    expect(promptOf(taken, "Why?")).toMatch(
      /\[1\] a\.pdf, page 3: one[\s\S]*\[2\] a\.pdf, page 3: three[\s\S]*Question: Why\?$/,
    );
  });

  it("let no document cite, speak or close a template", () => {
    fc.assert(
      fc.property(
        fc.array(
          fc.constantFrom(
            "[1]",
            "\nUser: ",
            "\nassistant:",
            "\n### Human",
            "<|im_end|>",
            "</s>",
            "<think>",
            "text ",
            " system : ",
          ),
          { maxLength: 12 },
        ),
        (parts) => {
          const text = neutral(parts.join(""));
          expect(text).not.toMatch(
            /\[\d+\]|<\||^\s*(?:#{3}|(?:user|assistant|system|human|tool)\s*:)|<\/?(?:s|think)>/im,
          );
        },
      ),
    );
  });
});

describe("an encoder beside the words", () => {
  // Two ways to say each of some things, which share no word; the words that all share say nothing.
  const things = Array.from({ length: 60 }, (_, i) => [`alpha${i} beta${i}`, `gamma${i} delta${i}`]);
  const said = things.map(([one, other]) =>
    passage(`Here is ${one} today. There is ${other} tomorrow.`, one),
  );
  const vectorOf = (text: string) => {
    const number = Number(/[a-z](\d+)/.exec(text)?.[1] ?? 0);
    return Float32Array.from(things, (_, i) => (i === number ? 1 : 0));
  };
  const knows: Encode = async (texts) => texts.map(vectorOf);
  const random: Encode = async (texts) =>
    texts.map((_, i) => Float32Array.from(things, (_, j) => ((i * 31 + j * 17) % 13) / 13 - 0.4));

  it("is chosen by a self-test where it finds more, and not where it finds less", async () => {
    const { mrr, chosen } = await selfTest(said, 60, knows);
    expect(mrr.encoder!).toBeGreaterThan(mrr.rm3! + 0.3);
    expect(chosen).toBe("encoder");
    const other = passages(things.map(([one]) => `Here ${one} is. There ${one} is too.`));
    expect((await selfTest(other, 60, random)).chosen).toBe("rm3");
    expect(Object.keys((await selfTest(said, 20)).mrr)).toEqual(["bm25", "rm3", "hybrid"]);
    // A little ahead is not enough: one that has learned these texts knows their first sentences.
    const close = await selfTest(other, 60, knows);
    expect(close.mrr.rm3!).toBeGreaterThan(0.9);
    expect(close.mrr.encoder!).toBeLessThan(1.1 * close.mrr.rm3!);
    expect(close.chosen).toBe("rm3");
  });

  it("finds by the query's vector, joined to the words by ranks; without one the words are searched", async () => {
    const index = new PassageIndex(said, knows);
    await index.prepare("encoder");
    const query = "omega7";
    expect(index.search(query, 3, "rm3")).toEqual([]);
    const vector = await index.vectorOf(query, "encoder");
    const [found] = index.search(query, 3, "encoder", vector);
    expect(found.passage).toBe(7);
    expect(index.stages(query, [found], vector)).toEqual([{ bm25: null, rm3: null, lsa: null, encoder: 1 }]);
    expect(index.search(query, 3, "encoder")).toEqual([]);
    expect(await index.vectorOf("  ", "encoder")).toBeUndefined();
    expect(await index.vectorOf(query, "rm3")).toBeUndefined();
  });

  const rows = said.map(({ text }, i) => ({
    id: `${i}`,
    document_id: `${i}`,
    ordinal: 0,
    text,
    name: "a.txt",
  }));
  const store = {
    all: async (sql: string) => (/FROM index_state/.test(sql) ? [{ version: 1 }] : rows),
    run: async () => {},
  } as unknown as Store;

  it("that a server has is found among its models, and indexes follow it as it comes and goes", async () => {
    const models = new ModelPool();
    const encoder = encoderOf(models);
    expect(encoder()).toBeNull();
    const searches = new Searches(store, encoder);
    expect((await searches.search("ada", "omega7", 3)).ranker).toBe("rm3");
    const runner: EncoderRunner = {
      ...{ vocabSize: 1000, maxModelLen: 8, maxBatchTokens: 64, rowLength: (tokens) => tokens },
      run: async (read) => read.map(({ ids }) => Float32Array.of(3 * ids.length, 4 * ids.length)),
    };
    const task = { name: "embed", width: 2, matryoshka: false } as const;
    models.addEncoder({ name: "vectors", runner, tokenizer: wordPieces(), task });
    const encode = encoder()!;
    expect(encoder()).toBe(encode);
    const long = "text ".repeat(40);
    const vectors = await encode(Array.from({ length: 70 }, () => long));
    expect(vectors).toHaveLength(70);
    expect(vectors[69][0]).toBeCloseTo(0.6, 5);
    // Equal vectors for all are still more than the words find here, which is nothing.
    expect((await searches.search("ada", "omega7", 3)).ranker).toBe("encoder");
    await models.remove("vectors");
    expect(encoder()).toBeNull();
    expect((await searches.search("ada", "omega7", 3)).ranker).not.toBe("encoder");
  });

  it("that fails leaves a search by the words, which says so", async () => {
    let fails = false;
    const searches = new Searches(store, () => encode);
    const encode: Encode = async (texts) => {
      if (fails) throw new Error("overloaded");
      return knows(texts);
    };
    expect(await searches.search("ada", "omega7", 3)).toMatchObject({
      ranker: "encoder",
      numbers: [7],
    });
    fails = true;
    const logged = vi.spyOn(process.stderr, "write").mockReturnValue(true);
    try {
      const found = await searches.search("ada", "alpha7", 3);
      expect(found.ranker).toBe("rm3");
      expect(found.numbers[0]).toBe(7);
      expect((await new Searches(store, () => encode).search("ben", "alpha7", 3)).ranker).toBe("rm3");
      expect(logged.mock.calls.join()).toMatch(/the encoder made no vectors.*overloaded/);
    } finally {
      logged.mockRestore();
    }
  });
});

const passages = (list: readonly string[]) => list.map((text, i) => passage(text, String(i)));
const shared = new URL("../../shared/data/retrieval/", import.meta.url).pathname;

describe.skipIf(!existsSync(shared))("on public sets (../shared/data/retrieval)", () => {
  let abstracts: ReturnType<typeof cranfield>;
  let questions: ReturnType<typeof xquad>;
  let wings: PassageIndex;
  let paragraphs: PassageIndex;
  // Not before: the body of what is skipped runs as well.
  beforeAll(() => {
    abstracts = cranfield(`${shared}cranfield`);
    questions = xquad(`${shared}xquad.en.json.gz`);
    wings = new PassageIndex(passages(abstracts.texts));
    paragraphs = new PassageIndex(passages(questions.texts));
  });

  it("Cranfield: nDCG@10 of the default at least 0.38, of hybrid 0.40", async () => {
    await wings.prepare("hybrid");
    expect(ndcg(abstracts, (q) => wings.rank(q, 10, "rm3").chunks, 10)).toBeGreaterThanOrEqual(0.38);
    expect(ndcg(abstracts, (q) => wings.rank(q, 10, "hybrid").chunks, 10)).toBeGreaterThanOrEqual(0.4);
  });

  it("XQuAD: recall@5 of the default at least 0.985", () => {
    expect(recall(questions, (q) => paragraphs.rank(q, 5, "rm3").chunks, 5)).toBeGreaterThanOrEqual(0.985);
  });

  it("keeps 97 % of what is answered and refuses 96 % of another field's questions", () => {
    const answered = (q: string) => paragraphs.answers(q, paragraphs.search(q, 5));
    const share = (list: readonly { text: string }[]) =>
      list.filter(({ text }) => answered(text)).length / list.length;
    expect(share(questions.queries)).toBeGreaterThanOrEqual(0.97);
    expect(1 - share(abstracts.queries)).toBeGreaterThanOrEqual(0.96);
  });

  it("quotes two sentences that hold the answer for 85 % of the questions", () => {
    const holds = questions.queries.filter(({ text, gains }, i) => {
      const [found] = gains.keys();
      const spans = quoted(paragraphs, text, { passage: found, score: 1 });
      return spans.some((span) => questions.texts[found].slice(...span).includes(questions.answers[i]));
    });
    expect(holds.length / questions.queries.length).toBeGreaterThanOrEqual(0.85);
  });

  it("tests itself by hidden sentences", async () => {
    const { mrr, queries, chosen } = await selfTest(passages(questions.texts), 60);
    expect(queries).toBeGreaterThan(50);
    expect(chosen).toBe(mrr.hybrid! > mrr.rm3! ? "hybrid" : "rm3");
    expect(mrr.rm3!).toBeGreaterThan(0.6);
  });
});
