import { existsSync, readFileSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { numberIn, profile } from "../models/features/table_profile.ts";
import { decodeText } from "../serve/app/ingest/decode.ts";
import { extract } from "../serve/app/ingest/extract.ts";
import { Unreadable } from "../serve/app/ingest/extracted.ts";
import { chunksOf, documentText } from "../serve/app/retrieval/index.ts";
import { pdfDocument, wordDocument, wordF1, wordParagraph, wordTable, zip } from "./support/documents.ts";

const read = (content: string | Uint8Array, name = "file") => extract(Buffer.from(content as string), name);
const textOf = async (content: string | Uint8Array, name?: string) =>
  documentText((await read(content, name)).blocks);
const bytes = (hex: string) => Buffer.from(hex.replaceAll(" ", ""), "hex");

describe("text", () => {
  it("is decoded by its mark, as UTF-8, as Japanese or Chinese where that is clear, else as windows-1252", () => {
    const cases: [Uint8Array, string, string][] = [
      [Buffer.from("naïve 日本"), "utf-8", "naïve 日本"],
      [bytes("fffe 6100 e900"), "utf-16le", "aé"],
      [bytes("feff 0061 00e9"), "utf-16be", "aé"],
      // 名前,東京 and 佐藤
      [bytes("96bc 914f 2c 938c 8b9e 0a 8db2 93a1"), "shift_jis", "名前,東京\n佐藤"],
      // これは日本語です
      [bytes("a4b3 a4ec a4cf c6fc cbdc b8ec a4c7 a4b9"), "euc-jp", "これは日本語です"],
      // 这是中文文本
      [bytes("d5e2 cac7 d6d0 cec4 cec4 b1be"), "gbk", "这是中文文本"],
      [
        Buffer.from("Élève déjà à l'école, où ça? Très bien", "latin1"),
        "windows-1252",
        "Élève déjà à l'école, où ça? Très bien",
      ],
      [
        Buffer.from("Größe, Übung, Straße und Käse", "latin1"),
        "windows-1252",
        "Größe, Übung, Straße und Käse",
      ],
    ];
    for (const [content, encoding, text] of cases) expect(decodeText(content)).toEqual({ encoding, text });
    expect(decodeText(bytes("00010203040506"))).toBe(null);
  });

  it("never fails on any bytes", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (content) => {
        const decoded = decodeText(content);
        if (decoded) expect(typeof decoded.text).toBe("string");
      }),
    );
  });

  it("keeps Markdown's headings, code and tables", async () => {
    const { blocks } = await read(
      "# One\n\nFirst\nline.\n\n## Two\n\n```py\ndef f():\n    return 1\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |\n",
      "a.md",
    );
    expect(blocks).toEqual([
      { text: "One", heading: "One", kind: "prose" },
      { text: "First line.", heading: "One", kind: "prose" },
      { text: "Two", heading: "One > Two", kind: "prose" },
      { text: "def f():\n    return 1", heading: "One > Two", kind: "code" },
      { text: "a | b\n1 | 2", heading: "One > Two", kind: "table" },
    ]);
  });

  it("is told from code and tables", async () => {
    expect((await read("def f():\n    return 1\n", "a.py")).kind).toBe("code");
    expect((await read("a;b\n1;2\n3;4\n", "data")).kind).toBe("csv");
    expect((await read("One thing. Another, too.\nAnd more, here.\nThen, the end.", "a.txt")).kind).toBe(
      "text",
    );
  });
});

describe("web pages", () => {
  it("give their article with headings, and say what no reader sees", async () => {
    const filler = "The harbour opens at nine and closes at five on every day of the week. ".repeat(8);
    const page = `<html><head><title>Harbour</title><link rel="canonical" href="https://a.example/h"></head><body>
      <nav>Home About</nav><article><h1>Harbour</h1><p>${filler}</p><p style="display:none">secret order</p>
      <p hidden>hidden order</p><h2>Fees</h2><table><tr><th>Boat</th><th>Fee</th></tr><tr><td>small</td><td>5</td></tr></table>
      <pre>x = 1\n  y = 2</pre><script>alert(1)</script></article></body></html>`;
    const found = await read(page, "a.html");
    const text = documentText(found.blocks);
    expect(text).not.toMatch(/order|alert/);
    expect(found.notes).toEqual(["24 characters that a reader does not see were left out"]);
    expect(found).toMatchObject({
      kind: "html",
      title: "Harbour",
      facts: { canonical: "https://a.example/h" },
    });
    expect(found.blocks).toContainEqual({
      text: "Boat | Fee\nsmall | 5",
      heading: expect.stringMatching(/Fees$/),
      kind: "table",
    });
    expect(found.blocks.some(({ kind, text: code }) => kind === "code" && code === "x = 1\n  y = 2")).toBe(
      true,
    );
  });
});

describe("documents", () => {
  it("read Word's headings, paragraphs and tables", async () => {
    const body =
      wordParagraph("Returns", "Heading1") +
      wordParagraph("Within 30 days.") +
      wordTable([
        ["Item", "Days"],
        ["Shoes", "14"],
      ]);
    const { blocks, kind } = await read(wordDocument(body));
    expect(kind).toBe("docx");
    expect(blocks).toEqual([
      { text: "Returns", heading: "Returns", kind: "prose" },
      { text: "Within 30 days.", heading: "Returns", kind: "prose" },
      { text: "Item | Days\nShoes | 14", heading: "Returns", kind: "table" },
    ]);
  });

  it("read a PDF's pages, paragraphs and columns", async () => {
    const { blocks, pages, kind } = await read(
      pdfDocument([
        [
          [50, 700, "The first line of a paragraph that goes"],
          [50, 688, "on in a second line."],
          [50, 640, "Another one."],
        ],
        [
          [50, 700, "Item"],
          [200, 700, "Price"],
          [50, 688, "Shoes"],
          [200, 688, "40.00"],
        ],
      ]),
    );
    expect({ kind, pages }).toEqual({ kind: "pdf", pages: 2 });
    expect(blocks).toEqual([
      { text: "The first line of a paragraph that goes on in a second line.", page: 1, kind: "prose" },
      { text: "Another one.", page: 1, kind: "prose" },
      { text: "Item | Price\nShoes | 40.00", page: 2, kind: "table" },
    ]);
  });

  it("say in a sentence what is wrong with a file", async () => {
    const cases: [Uint8Array, RegExp][] = [
      [Buffer.alloc(0), /empty/],
      [Buffer.from("   \n"), /no words/],
      [bytes("7f454c46 0201 0100 0000"), /binary file of an unknown kind/],
      [bytes("d0cf11e0a1b11ae1"), /old Office file/],
      [pdfDocument([[]]), /no words/],
      [Buffer.from("%PDF-1.4 nothing else"), /damaged/],
      [
        zip([{ name: "inner.zip", data: zip([{ name: "a", data: Buffer.from("a") }]) }]),
        /neither \.docx nor \.xlsx/,
      ],
      [wordDocument("").subarray(0, 300), /cut off/],
      [
        zip([{ name: "word/document.xml", data: Buffer.from("<w:document"), claims: 2 ** 31 }]),
        /unpacks to 2147 MB/,
      ],
      [
        zip(Array.from({ length: 2001 }, (_, i) => ({ name: `${i}`, data: Buffer.from("") }))),
        /over 2000 parts/,
      ],
      [wordDocument(`<w:p>${" ".repeat(20_000_000)}</w:p>`), /unpacks to 20 MB/],
      [Buffer.from("RIFF\0\0\0\0WAVEfmt "), /damaged/],
      [Buffer.from("SQLite format 3\0garbage"), /damaged/],
    ];
    for (const [content, reason] of cases) {
      const error = await extract(content, "file").catch((each) => each);
      expect(error, String(reason)).toBeInstanceOf(Unreadable);
      expect(error.message).toMatch(reason);
    }
  });
});

describe("tables", () => {
  it("name their columns in every row, by any delimiter", async () => {
    for (const sign of [",", ";", "\t", "|"])
      expect(await textOf(`name${sign}age\nAda${sign}36\n"Bo${sign} jr"${sign}7\n`, "a.csv")).toBe(
        `name: Ada; age: 36\nname: Bo${sign.trim()} jr; age: 7`,
      );
  });

  it("have profiles", () => {
    const rows = [
      ["1", "a", "2026-01-02", "yes", ""],
      ["$1,200.50", "b", "2026-02-02", "no", "n/a"],
      ["NA", "a", "2026-03-02", "yes", "-"],
    ];
    const [amount, group, day, flag, empty] = profile(["amount", "group", "day", "flag", "empty"], rows);
    expect(amount).toMatchObject({ type: "number", min: 1, max: 1200.5, mean: 600.75, missing: 1 / 3 });
    expect(group).toEqual({
      name: "group",
      type: "category",
      missing: 0,
      categories: [
        ["a", 2],
        ["b", 1],
      ],
    });
    expect([day.type, flag.type, empty.type, empty.missing]).toEqual(["date", "boolean", "empty", 1]);
    expect([numberIn("12%"), numberIn("-3e2"), numberIn("1,2")]).toEqual([12, -300, Number.NaN]);
  });

  it("come from JSON by paths, and conversations by turns", async () => {
    expect(await textOf('{"a":{"b":[1,{"c":"x"}]},"d":null}')).toBe("a.b[0]: 1\na.b[1].c: x");
    const chat = '{"messages":[{"role":"user","content":"Hi"},{"role":"assistant","content":"Hello"}]}';
    const { blocks, facts } = await read(`${chat}\n${chat}\n`);
    expect(blocks[1]).toEqual({
      text: "user: Hi\nassistant: Hello",
      heading: "conversation 2",
      kind: "table",
    });
    expect(facts).toEqual({ conversations: 2 });
  });
});

const shared = new URL("../../shared/data/docs/", import.meta.url).pathname;

describe.skipIf(!existsSync(shared))("on real documents (../shared/data/docs)", () => {
  const names = ["RECEIPT-2024-TXN-98765_retail_purchase", "movie-theater-booking-2024", "test"];
  it.each(names)("%s.pdf has the words that are expected", async (name) => {
    const found = await textOf(readFileSync(`${shared}${name}.pdf`));
    const expected = readFileSync(`${shared}expected/${name}.md`, "utf8");
    expect(wordF1(found, expected)).toBeGreaterThanOrEqual(0.95);
  });

  it("finds the cells of a table", async () => {
    const cells = (text: string) =>
      text
        .split("\n")
        .flatMap((line) => (line.includes("|") ? line.split("|").map((cell) => cell.trim()) : []))
        .filter((cell) => /\w/.test(cell));
    const name = "movie-theater-booking-2024";
    const { blocks } = await read(readFileSync(`${shared}${name}.pdf`));
    const found = cells(
      blocks
        .filter(({ kind }) => kind === "table")
        .map(({ text }) => text)
        .join("\n"),
    );
    const expected = cells(readFileSync(`${shared}expected/${name}.md`, "utf8"));
    // What is expected has many of the rows as text without cells, so only what it has as cells can be asked for.
    const hits = expected.filter((cell) => found.includes(cell)).length;
    expect(hits / expected.length).toBeGreaterThanOrEqual(0.9);
  });

  it("reads Shift_JIS, workbooks, Word and a web page", async () => {
    expect(await textOf(readFileSync(`${shared}test_mskanji.csv`), "a.csv")).toContain(
      "名前: 佐藤太郎; 年齢: 30; 住所: 東京",
    );
    expect((await read(readFileSync(`${shared}test.xlsx`))).facts).toMatchObject({
      tables: [{ name: "Sheet1", rows: 23 }, {}],
    });
    expect(await textOf(readFileSync(`${shared}test.docx`))).toContain(
      "AutoGen: Enabling Next-Gen LLM Applications",
    );
    const { title, blocks } = await read(readFileSync(`${shared}test_blog.html`));
    expect(title).toMatch(/^Does Model and Inference Parameter Matter/);
    expect(chunksOf(blocks).length).toBeGreaterThan(3);
  });

  it("decodes sound", async () => {
    const { facts } = await read(readFileSync(`${shared}answer.wav`));
    expect(facts).toEqual({ seconds: 14592 / 22050, sample_rate: 22050, channels: 1 });
  });
});
