import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { KilnError } from "../core/errors.ts";
import { fileSource, type ReadOptions, readDocuments, storySource } from "../train/data/index.ts";

// Generous, because other work may share the machine; nothing here waits.
vi.setConfig({ testTimeout: 60_000 });

const data = join(import.meta.dirname, "../../shared/data/text");
const hasData = existsSync(data);

let folder = "";
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "kiln-readers-"));
});
afterAll(() => rmSync(folder, { recursive: true }));

function write(name: string, content: string | Uint8Array): string {
  const path = join(folder, name);
  mkdirSync(join(path, ".."), { recursive: true });
  writeFileSync(path, content);
  return path;
}

async function collect(documents: AsyncIterable<string>): Promise<string[]> {
  const all: string[] = [];
  for await (const text of documents) all.push(text);
  return all;
}

async function read(path: string | string[], options?: ReadOptions): Promise<string[]> {
  return collect(readDocuments([path].flat(), options));
}

async function failure(path: string | string[], options?: ReadOptions): Promise<string> {
  try {
    await read(path, options);
  } catch (error) {
    expect(error).toBeInstanceOf(KilnError);
    expect((error as Error).message).not.toContain("\n");
    return (error as Error).message;
  }
  throw new Error("reading should have failed");
}

describe("text", () => {
  test("is cut at end-of-text markers, on their own line or inside one", async () => {
    const path = write(
      "a.txt",
      "One.\nStill one.\n<|endoftext|>\nTwo.<|endoftext|>Three.\r\nMore.\n\n<|endoftext|>\n\n",
    );
    expect((await read(path)).map((text) => text.trim())).toEqual([
      "One.\nStill one.",
      "Two.",
      "Three.\nMore.",
    ]);
  });

  test("without a marker is one document; blank lines or line ends separate on request", async () => {
    const path = write("b.txt", "One\nline two\n\n\nTwo\n");
    expect(await read(path)).toEqual(["One\nline two\n\n\nTwo"]);
    expect(await read(path, { separator: "blank-line" })).toEqual(["One\nline two", "Two"]);
    expect(await read(path, { separator: "line" })).toEqual(["One", "line two", "Two"]);
  });

  test("characters survive chunk borders, packed or not", async () => {
    const text = "日本語😀é ".repeat(100_000).trim();
    expect(await read(write("long.txt", text))).toEqual([text]);
    expect(await read(write("long.txt.gz", gzipSync(text)))).toEqual([text]);
  });

  test("gzip is known by content, not by name; a byte order mark is dropped", async () => {
    expect(await read(write("packed.txt", gzipSync("\ufeffhello")))).toEqual(["hello"]);
  });

  test("a very long text is cut at a line end and loses nothing but that", async () => {
    const line = `${"word ".repeat(20_000).trim()}`;
    const documents = await read(write("huge.txt", `${line}\n`.repeat(60)));
    expect(documents.length).toBeGreaterThan(1);
    expect(documents.join("\n")).toBe(Array(60).fill(line).join("\n"));
  });
});

describe("JSON lines", () => {
  test("take text, else story, else the named field; blank lines and empty texts are left out", async () => {
    const path = write(
      "a.jsonl",
      '{"text": "One", "story": "no"}\n\n{"story": "Two"}\r\n{"text": " "}\n{"text": "3"}',
    );
    expect(await read(path)).toEqual(["One", "Two", "3"]);
    expect(await read(write("b.jsonl", '{"body": "B"}\n'), { field: "body" })).toEqual(["B"]);
    expect(await read(write("c.data", gzipSync('{"text": "by content"}\n')))).toEqual(["by content"]);
  });

  test("any texts come back as they were", async () => {
    const texts = fc.array(fc.string({ unit: "grapheme", minLength: 1 }), { minLength: 1 });
    await fc.assert(
      fc.asyncProperty(texts, fc.boolean(), async (some, packed) => {
        const lines = some.map((text) => JSON.stringify({ text })).join("\n");
        const path = write("any.jsonl", packed ? gzipSync(lines) : lines);
        const kept = some.filter((text) => text.trim() !== "");
        if (kept.length > 0) expect(await read(path)).toEqual(kept);
      }),
      { numRuns: 50 },
    );
  });
});

test("folders and several paths are read in order", async () => {
  write("folder/b/2.txt", "two");
  write("folder/a.txt", "one");
  write("folder/picture.png", "\0\0");
  write("folder/.hidden.txt", "no");
  const last = write("last.md", "three");
  expect(await read([join(folder, "folder"), last])).toEqual(["one", "two", "three"]);
});

describe("bad input gets one line that says what and where", () => {
  test.each<[string, () => string, RegExp, ReadOptions?]>([
    ["missing", () => join(folder, "nowhere.txt"), /nowhere.txt does not exist.*built-in stories/],
    ["empty", () => write("empty.txt", ""), /empty/],
    ["only white space", () => write("white.txt", " \n\n <|endoftext|> \n"), /empty/],
    ["binary", () => write("x.txt", Uint8Array.of(1, 0, 2, 0)), /binary/],
    ["packed binary", () => write("y.gz", gzipSync(Uint8Array.of(1, 0, 2))), /binary/],
    ["UTF-16", () => write("u16.txt", Buffer.from("\ufeffhello", "utf16le")), /UTF-16/],
    ["Latin-1", () => write("l1.txt", Buffer.from("caf\u00e9 au lait", "latin1")), /not UTF-8.*iconv/],
    ["damaged gzip", () => write("z.gz", gzipSync("hello world ".repeat(99)).subarray(0, 30)), /damaged/],
    [
      "bad JSON",
      () => write("bad.jsonl", '{"text": "a"}\n{"text": \n'),
      /bad.jsonl line 2 is not valid JSON/,
    ],
    [
      "no field",
      () => write("f.jsonl", '{"id": 1, "body": "b"}'),
      /line 1 has no field "text" or "story".*id, body/,
    ],
    ["wrong field", () => write("g.jsonl", '{"text": "a"}'), /no field "story".*text/, { field: "story" }],
    ["no text", () => write("h.jsonl", '{"text": 5}'), /no text in field "text"/],
    ["not an object", () => write("i.jsonl", '"a"'), /JSON object/],
    ["a JSON array", () => write("j.json", '[{"text": "a"}]'), /JSON array.*JSONL/],
    ["a folder without text", () => join(write("none/picture.png", "x"), ".."), /holds no text/],
  ])("%s", async (_, path, expected, options) => {
    expect(await failure(path(), options)).toMatch(expected);
  });
});

describe("sources", () => {
  test("hash what they read", async () => {
    const path = write("hash.txt", "one");
    const first = await fileSource([path]).hash();
    expect(await fileSource([path]).hash()).toBe(first);
    expect(await fileSource([path], { separator: "line" }).hash()).not.toBe(first);
    write("hash.txt", "two");
    expect(await fileSource([path]).hash()).not.toBe(first);
    expect(await storySource({ seed: 1, stories: 5 }).hash()).not.toBe(
      await storySource({ seed: 1, stories: 6 }).hash(),
    );
  });

  test("read the built-in stories", async () => {
    expect(await collect(storySource({ seed: 1, stories: 5 }).documents())).toHaveLength(5);
  });
});

test.skipIf(!hasData)(
  `TinyStories files are read${hasData ? "" : " (skipped: needs ../shared/data, which is not here)"}`,
  async () => {
    const sample = await read(join(data, "tinystories_sample2000.jsonl.gz"));
    expect(sample).toHaveLength(2000);
    expect(sample[0]).toMatch(/^Lily was a princess who loved to jump\./);
    expect(await read(join(data, "tinystories_train_first1000.jsonl.gz"))).toHaveLength(1000);
    const bulk = await read(join(data, "tinystories_train_first4MB_lowercase.txt.gz"));
    expect(Buffer.byteLength(bulk.join("\n"))).toBeGreaterThan(4e6);
    expect(await read(join(data, "names.txt"), { separator: "line" })).toHaveLength(32033);
  },
);
