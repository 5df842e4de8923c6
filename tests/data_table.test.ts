import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import fc from "fast-check";
import { afterAll, describe, expect, it } from "vitest";
import { KilnError } from "../core/errors.ts";
import { type LabelledOptions, readLabelled } from "../train/data/labelled.ts";
import { findColumn, readTable, type TableOptions } from "../train/data/table.ts";

const folder = mkdtempSync(join(tmpdir(), "kiln-table-"));
afterAll(() => rmSync(folder, { recursive: true }));
const fixtures = join(import.meta.dirname, "fixtures/tables");
const module = new URL("../train/data/table.ts", import.meta.url).href;
const sets = join(import.meta.dirname, "../../shared/data/classification");

let number = 0;
function write(name: string, content: string | Uint8Array): string {
  const path = join(folder, `${number++}-${name}`);
  writeFileSync(path, content);
  return path;
}

async function rows(path: string, options?: TableOptions): Promise<Record<string, unknown>[]> {
  const all: Record<string, unknown>[] = [];
  for await (const { values } of (await readTable(path, options)).rows()) all.push(values);
  return all;
}

async function labelled(path: string | string[], options?: LabelledOptions, leftOut?: string[]) {
  const all: [string, ...string[]][] = [];
  const note = (what: string) => void leftOut?.push(what);
  for await (const { text, labels } of readLabelled([path].flat(), options, note))
    all.push([text, ...labels]);
  return all;
}

async function failure(work: Promise<unknown>): Promise<string> {
  const error = await work.then(
    () => null,
    (thrown) => thrown,
  );
  expect(error).toBeInstanceOf(KilnError);
  expect(error.message).not.toContain("\n");
  return error.message;
}

it.skipIf(!existsSync("/proc/self/fd"))("a folder is refused, and left closed", async () => {
  const open = () => readdirSync("/proc/self/fd").length;
  await expect(readTable(fixtures)).rejects.toThrow("is a directory");
  const before = open();
  for (let i = 0; i < 5; i++) await expect(readTable(fixtures)).rejects.toThrow("is a directory");
  expect(open()).toBe(before);
});

describe("delimited text", () => {
  it("is read as RFC 4180 says, whatever the delimiter and line ends", async () => {
    for (const d of [",", ";", "|"]) {
      const text = `text${d}label\r\n"a ""b""${d}\r\nc"${d}x\r\n\r\n5" pipe${d}"y"\r\n`;
      expect(await rows(write("a.csv", text))).toEqual([
        { text: `a "b"${d}\r\nc`, label: "x" },
        { text: '5" pipe', label: "y" },
      ]);
    }
  });

  it("of any fields comes back as it was, packed or not, with any delimiter", async () => {
    const cell = fc.string({
      unit: fc.constantFrom("a", "é", '"', ",", ";", "|", "\n", "\r\n", " "),
      maxLength: 6,
    });
    const table = fc
      .integer({ min: 2, max: 4 })
      .chain((columns) =>
        fc.array(fc.array(cell, { minLength: columns, maxLength: columns }), { minLength: 2, maxLength: 5 }),
      );
    const delimiter = fc.constantFrom(",", ";", "|");
    await fc.assert(
      fc.asyncProperty(table, delimiter, fc.boolean(), async (cells, d, packed) => {
        const header = cells[0].map((_, i) => `c${i}`);
        const quoted = cells.map((row) => row.map((text) => `"${text.replaceAll('"', '""')}"`).join(d));
        const text = `${header.join(d)}\n${quoted.join("\n")}`;
        const path = write("any.csv", packed ? gzipSync(text) : text);
        const expected = cells.map((row) => Object.fromEntries(row.map((value, i) => [header[i], value])));
        expect(await rows(path)).toEqual(expected);
      }),
      { numRuns: 100 },
    );
  });

  it("with tabs has quotes only where they are well formed", async () => {
    const text = 'label\ttext\nham\t"Hi" he said\nspam\t"open\nham\t"a ""b"" c"\n';
    expect((await rows(write("a.tsv", text))).map((row) => row.text)).toEqual([
      '"Hi" he said',
      '"open',
      'a "b" c',
    ]);
  });

  it("without a header has numbered columns", async () => {
    const path = write("a.csv", '"3","Title, long","Text"\n"4","B","C"\n');
    expect(await rows(path, { header: false })).toEqual([
      { 1: "3", 2: "Title, long", 3: "Text" },
      { 1: "4", 2: "B", 3: "C" },
    ]);
    expect(await labelled(path, { text: ["2", "3"], label: "1" })).toEqual([
      ["Title, long Text", "3"],
      ["B C", "4"],
    ]);
  });

  it("may be UTF-8 or UTF-16, with or without its mark, or Latin-1; guesses are said", async () => {
    const text = "text;label\ncafé;a\nthé;b\n";
    const utf16 = Buffer.from(text, "utf16le");
    const cases: [Buffer, RegExp | null][] = [
      [Buffer.from(text), null],
      [Buffer.from(`\ufeff${text}`), null],
      [Buffer.concat([Buffer.from([0xff, 0xfe]), utf16]), null],
      [Buffer.concat([Buffer.from([0xfe, 0xff]), Buffer.from(utf16).swap16()]), null],
      [utf16, /no byte order mark: read as UTF-16LE/],
      [Buffer.from(utf16).swap16(), /no byte order mark: read as UTF-16BE/],
      [Buffer.from(text, "latin1"), /not UTF-8 \(byte 0xE9 at offset 14\): read as Latin-1/],
    ];
    for (const [bytes, guess] of cases) {
      for (const packed of [false, true]) {
        const said: string[] = [];
        const path = write("a.csv", packed ? gzipSync(bytes) : bytes);
        expect(await rows(path, { say: (line) => said.push(line) })).toEqual([
          { text: "café", label: "a" },
          { text: "thé", label: "b" },
        ]);
        if (guess) expect(said.join()).toMatch(guess);
        else expect(said).toEqual([]);
      }
    }
  });

  it.each([
    ["text,label\na,x\nb,y,z\n", /row 2 \(line 3\) has 3 fields where the header has 2 \(between commas\)/],
    ['text,label\n"a\nb",x\nb\n', /row 2 \(line 4\) has 1 field where the header has 2/],
    ["text,label,text\na,x,b\n", /names the column "text" twice \(columns 1 and 3\)/],
    ['text,label\n"a" b,x\n', /line 2: field 1 has the text " b,x" after its closing quote/],
    ['text,label\na,x\n"b,y\nc,z\n', /line 3: a double quote opens a field and is never closed/],
    ["", /is empty/],
    ["text,label\na\0,x\n", /is a binary file/],
  ])("that is wrong is refused with its row: %j", async (text, message) => {
    expect(await failure(rows(write("bad.csv", text)))).toMatch(message);
  });

  it("of any length is read in little memory, by row number", () => {
    const row = `${"some words here ".repeat(9)},1\n`;
    const path = write("long.csv", `text,label\n${row.repeat(400_000)}oops\n`);
    // A heap that is smaller than the file.
    const program = `const { readTable } = await import(${JSON.stringify(module)});
      let seen = 0;
      try { for await (const row of (await readTable(${JSON.stringify(path)})).rows()) seen++; }
      catch (error) { console.log(seen, error.message); }`;
    const flags = ["--max-old-space-size=48", "--import", "tsx", "--input-type=module", "-e", program];
    const { stdout, stderr } = spawnSync(process.execPath, flags, { encoding: "utf8" });
    expect(stdout, stderr).toMatch(/^400000 .*row 400001 \(line 400002\) has 1 field/);
  });
});

describe("JSON", () => {
  const objects = [
    { text: "a", label: 1 },
    { text: "b", label: 0, more: [1] },
  ];
  it("is a list, a field that is one, or lines; rows are objects or lists", async () => {
    expect(await rows(write("a.json", JSON.stringify(objects)))).toEqual(objects);
    expect(await rows(write("b.json", JSON.stringify({ version: 1, data: objects }, null, 2)))).toEqual(
      objects,
    );
    expect(
      await rows(write("c.jsonl.gz", gzipSync(objects.map((o) => JSON.stringify(o)).join("\r\n\n")))),
    ).toEqual(objects);
    expect(await rows(write("d", '\ufeff[["a", "x"]]'))).toEqual([{ 1: "a", 2: "x" }]);
    expect((await readTable(write("e.jsonl", '{"a": 1}\n{"b": 2}'))).columns).toEqual(["a", "b"]);
  });

  it.each([
    ["a.json", "[1]", /row 1 should be a JSON object/],
    ["b.json", "[{]", /is not valid JSON/],
    ["c.json", '{"train": [], "test": []}', /several lists \(train, test\)/],
    ["d.json", "{}", /should be a list of rows/],
    ["e.jsonl", '{"a": 1}\n\n{"a"', /row 2 \(line 3\) is not valid JSON/],
  ])("that is no table is refused: %s", async (name, text, message) => {
    expect(await failure(rows(write(name, text)))).toMatch(message);
  });
});

describe("Parquet", () => {
  // Written by pyarrow 25: 60 rows in groups of 20, `label` a ClassLabel of Hugging Face's datasets, `maybe` null in every fifth row.
  it.each(["snappy", "zstd", "gzip", "brotli"])(
    "packed by %s is read with the names of its labels",
    async (codec) => {
      const path = join(fixtures, `${codec}.parquet`);
      expect((await readTable(path)).columns).toEqual(["text", "label", "tags", "maybe"]);
      const all = await rows(path);
      expect(all).toHaveLength(60);
      expect(all[59]).toEqual({ text: "row 59 éxxx", label: "pos", tags: ["c"], maybe: "m3" });
      expect(await labelled(path, { label: "tags" })).toHaveLength(60);
      expect((await labelled(path))[0]).toEqual(["row 0 é", "neg"]);
      const leftOut: string[] = [];
      expect(await labelled(path, { label: "maybe" }, leftOut)).toHaveLength(48);
      expect(leftOut).toEqual(Array(12).fill("rows without a label"));
    },
  );

  it("that is damaged is refused; gzip around it is not", async () => {
    const { readFileSync } = await import("node:fs");
    const bytes = readFileSync(join(fixtures, "snappy.parquet"));
    expect(await rows(write("a.parquet.gz", gzipSync(bytes)))).toHaveLength(60);
    expect(await failure(rows(write("b.parquet", bytes.subarray(0, 2000))))).toMatch(
      /cannot be read as Parquet/,
    );
    expect(await failure(rows(write("c.parquet", "PAR1")))).toMatch(/cannot be read as Parquet/);
  });
});

describe("columns", () => {
  it("are found without regard to case, or the nearest is named", async () => {
    const table = await readTable(write("a.csv", "Text,label,Label\na,b,c\n"));
    expect(findColumn(table, "TEXT")).toBe("Text");
    expect(findColumn(table, "Label")).toBe("Label");
    expect(() => findColumn(table, "LABEL")).toThrow(/no column "LABEL": did you mean "label"\?/);
    expect(() => findColumn(table, "txt")).toThrow(/did you mean "Text"\? it has "Text", "label", "Label"/);
  });

  it("that are empty, or tables of one row, are one line", async () => {
    expect(await failure(labelled(write("a.csv", "text,label\na,\nb,\n")))).toMatch(
      /the column label is empty in all 2 rows: name another with --label/,
    );
    expect(await failure(labelled(write("b.csv", "text,label\n,x\n \t,y\n")))).toMatch(
      /the column text is empty/,
    );
    expect(await failure(labelled(write("c.csv", "text,label\na,x\n")))).toMatch(
      /only 1 row with text and label/,
    );
    expect(await failure(labelled(write("d.csv", "text,label\n")))).toMatch(/no row with text and label/);
    expect(await failure(labelled(write("e.csv", "a,b\n1,2\n")))).toMatch(
      /no column has a usual name for the text/,
    );
  });

  it("several of 0 and 1 are several labels; a list is too", async () => {
    const path = write("a.csv", "comment_text,bad,worse\nx,1,0\ny,0,0\nz,true,1\n");
    expect(await labelled(path, { label: ["bad", "worse"] })).toEqual([
      ["x", "bad"],
      ["y"],
      ["z", "bad", "worse"],
    ]);
    expect(await failure(labelled(path, { label: ["comment_text", "bad"] }))).toMatch(
      /row 1.*holds "x".*0 or 1/,
    );
    const json = write("a.jsonl", '{"text": "x", "labels": ["a", "b"]}\n{"text": "y", "labels": "c"}\n');
    expect(await labelled(json)).toEqual([
      ["x", "a", "b"],
      ["y", "c"],
    ]);
  });

  it("are label and text in files of lines", async () => {
    expect(
      await labelled(write("a.txt", "0 a bad film\n\n1 a , good one\n"), { format: "label-first" }),
    ).toEqual([
      ["a bad film", "0"],
      ["a , good one", "1"],
    ]);
    const fast = write("b.txt", "__label__a __label__b some text\n__label__c more\n");
    expect(await labelled(fast, { format: "fasttext" })).toEqual([
      ["some text", "a", "b"],
      ["more", "c"],
    ]);
    expect(
      await failure(
        labelled(fast, { format: "label-first" }).then(() =>
          rows(write("c.txt", "alone\n"), { format: "label-first" }),
        ),
      ),
    ).toMatch(/line 1 has no label and text: "alone"/);
  });
});

describe.skipIf(!existsSync(sets))("the public sets (skipped without ../shared/data)", () => {
  it.each<[string, LabelledOptions, number, number]>([
    ["sst2_train.txt.gz", { format: "label-first" }, 6920, 2],
    ["sst2_dev.txt", { format: "label-first" }, 872, 2],
    ["trec_train.txt", { format: "label-first" }, 5452, 6],
    ["ag_news_6000.csv.gz", { text: ["2", "3"], label: "1" }, 6000, 4],
    ["banking77_train.csv.gz", {}, 10_003, 77],
    ["hate_offensive_20000.csv.gz", { text: "tweet", label: "class" }, 20_000, 3],
    [
      "jigsaw_toxic_sample_200.csv",
      { label: ["toxic", "severe_toxic", "obscene", "threat", "insult", "identity_hate"] },
      200,
      6,
    ],
    ["sms_spam_train.tsv.gz", {}, 4500, 2],
    ["amazon_cells_labelled.txt", { text: "1", label: "2" }, 1000, 2],
    ["imdb_labelled.txt", { text: "1", label: "2" }, 1000, 2],
  ])("%s", async (name, options, count, labels) => {
    const said: string[] = [];
    const all = await labelled(join(sets, name), { ...options, say: (line) => said.push(line) });
    expect(all).toHaveLength(count);
    expect(new Set(all.flatMap(([, ...own]) => own)).size).toBe(labels);
    expect(said.length).toBe(name.startsWith("trec") ? 1 : 0);
  });
});
