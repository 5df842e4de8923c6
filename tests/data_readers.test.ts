import { execFileSync } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { KilnError } from "../core/errors.ts";
import {
  fileSource,
  type ReadOptions,
  readDocuments,
  storySource,
  type TextPart,
} from "../train/data/index.ts";

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

async function collect(documents: AsyncIterable<TextPart>): Promise<string[]> {
  const all: string[] = [];
  let isInside = false;
  for await (const { text, ends } of documents) {
    if (isInside) all[all.length - 1] += text;
    else all.push(text);
    isInside = !ends;
  }
  expect(isInside).toBe(false);
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

/** What was left out, and how often. */
async function leftOut(path: string | string[], options?: ReadOptions): Promise<Record<string, number>> {
  const counts: Record<string, number> = {};
  await collect(
    readDocuments([path].flat(), options, (what) => {
      counts[what] = (counts[what] ?? 0) + 1;
    }),
  );
  return counts;
}

describe("text", () => {
  test("is cut at end-of-text markers; the line end after one goes with it, all else is kept", async () => {
    const path = write(
      "a.txt",
      "  One.\nStill one.\n<|endoftext|>\r\n\tTwo.<|endoftext|>Three.\r\nMore.\n\n<|endoftext|>\n\n",
    );
    expect(await read(path)).toEqual(["  One.\nStill one.\n", "\tTwo.", "Three.\r\nMore.\n\n"]);
    expect(await leftOut(path)).toEqual({ "empty documents": 1 });
  });

  test("without a marker is one document, to the byte; lines, blank lines or any text separate on request", async () => {
    const text = "  One\n\tline two\r\n\n \nTwo\n---\n3 \n";
    const path = write("b.txt", text);
    expect(await read(path)).toEqual([text]);
    expect(await read(path, { separator: "\n\n" })).toEqual(["  One\n\tline two", "Two\n---\n3 \n"]);
    expect(await read(path, { separator: "\n---\n" })).toEqual(["  One\n\tline two\r\n\n \nTwo", "3 \n"]);
    expect(await read(path, { separator: "line" })).toEqual(["  One\n\t", " two\r\n\n \nTwo\n---\n3 \n"]);
    const lines = ["  One", "\tline two", "Two", "---", "3 "];
    expect(await read(path, { separator: "\n" })).toEqual(lines);
    expect(await leftOut(path, { separator: "\n" })).toEqual({ "empty documents": 2 });
  });

  test("any text is cut where its separator stands, wherever chunks and parts end", async () => {
    const separators = fc.constantFrom("<|endoftext|>", "\n", "\n\n", "ab", "=\n=");
    const long = fc.constantFrom(0, 2 ** 18 - 3, 2 ** 20 + 2 ** 18 - 1);
    const texts = fc.array(
      fc.tuple(long, fc.string({ unit: fc.constantFrom("é", "😀", " x", "\t"), maxLength: 5 })),
      {
        minLength: 1,
        maxLength: 4,
      },
    );
    await fc.assert(
      fc.asyncProperty(texts, separators, async (some, separator) => {
        const written = some.map(([length, text]) => `x${"é y".repeat(length / 3)}${text}z`);
        expect(await read(write("cut.txt", written.join(separator)), { separator })).toEqual(written);
      }),
      { numRuns: 30 },
    );
  });

  test("characters survive chunk borders, packed or not", async () => {
    const text = "日本語😀é ".repeat(100_000);
    expect(await read(write("long.txt", text))).toEqual([text]);
    expect(await read(write("long.txt.gz", gzipSync(text)))).toEqual([text]);
  });

  test("gzip is known by content, not by name; a byte order mark is dropped", async () => {
    expect(await read(write("packed.txt", gzipSync("\ufeffhello")))).toEqual(["hello"]);
  });

  test("a text of any length is one document and comes in parts", async () => {
    const text = `${"word ".repeat(1_000_000)}\n${"x".repeat(3_000_000)}`;
    const path = write("huge.txt", text);
    expect(await read(path)).toEqual([text]);
    for await (const part of readDocuments([path])) expect(part.text.length).toBeLessThan(2 ** 21);
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

test("a record is a document, whatever its text holds", async () => {
  const texts = ["one<|endoftext|>two\n", "  a\n\nb\n", "\0"];
  const path = write("record.jsonl", texts.map((text) => `${JSON.stringify({ text })}\r\n`).join(""));
  expect(await read(path, { separator: "\n" })).toEqual(texts);
});

test("a field inside a field is named with a dot, unless a field has that name", async () => {
  const nested = write("nested.jsonl", '{"meta": {"body": {"en": "A"}}}\n{"meta.body.en": "B", "meta": 1}\n');
  expect(await read(nested, { field: "meta.body.en" })).toEqual(["A", "B"]);
  expect(await failure(write("inside.jsonl", '{"id": 1, "data": {"story": "x"}}'))).toMatch(
    /its fields are: id, data.story \(choose one: --set data.field=NAME, in kiln eval --field NAME\)/,
  );
});

describe("folders", () => {
  test("and several paths are read in order; what is no text file is counted", async () => {
    write("folder/b/2.txt", "two");
    write("folder/a.txt", "one");
    write("folder/picture.png", "\0\0");
    write("folder/code.py", "print(1)");
    write("folder/more.py", "print(2)");
    write("folder/LICENSE", "free");
    write("folder/.hidden.txt", "no");
    write("folder/z.txt", "");
    mkdirSync(join(folder, "folder/c.txt"));
    const last = write("last.md", "three");
    expect(await read([join(folder, "folder"), last])).toEqual(["one", "two", "three"]);
    expect(await leftOut(join(folder, "folder"))).toEqual({
      ".png files": 1,
      ".py files": 2,
      "other files": 1,
      "hidden files": 1,
      "empty files": 1,
    });
    expect(await read(join(folder, "folder/code.py"))).toEqual(["print(1)"]);
  });

  test.skipIf(process.platform === "win32")(
    "special files and endless links are counted, not read",
    async () => {
      write("special/a.txt", "one");
      const at = (name: string) => join(folder, "special", name);
      execFileSync("mkfifo", [at("pipe.txt")]);
      symlinkSync(at("nowhere"), at("dead.txt"));
      symlinkSync(at("self.txt"), at("self.txt"));
      symlinkSync(join(folder, "special"), at("up"));
      const server = createServer().listen(at("socket.txt"));
      await once(server, "listening");
      expect(await leftOut(join(folder, "special"))).toEqual({
        "pipes, sockets and devices": 2,
        "broken links": 2,
        "links to a folder around them": 1,
      });
      server.close();
      expect(await failure(at("pipe.txt"))).toMatch(
        /pipe.txt is a pipe, socket or device.*save it to a file/,
      );
      expect(await failure("/dev/null")).toMatch(/null is a pipe, socket or device/);
      expect(await failure(at("self.txt"))).toMatch(/self.txt does not exist/);
    },
  );

  test("a file that vanishes while the corpus is read is one line", async () => {
    write("going/a.txt", "one");
    const second = write("going/b.txt", "two");
    const documents = readDocuments([join(folder, "going")]);
    await documents.next();
    rmSync(second);
    await expect(documents.next()).rejects.toThrow(/b.txt does not exist; check the path/);
  });
});

describe("bad input gets one line that says what and where", () => {
  test.each<[string, () => string, RegExp, ReadOptions?]>([
    ["missing", () => join(folder, "nowhere.txt"), /nowhere.txt does not exist .*; check the path$/],
    ["empty", () => write("empty.txt", ""), /no text found in .*: name files/],
    ["only white space", () => write("white.txt", " \n\n <|endoftext|> \n"), /no text found in/],
    ["binary", () => write("x.txt", Uint8Array.of(1, 0, 2, 0)), /binary/],
    ["packed binary", () => write("y.gz", gzipSync(Uint8Array.of(1, 0, 2))), /binary/],
    ["UTF-16", () => write("u16.txt", Buffer.from("\ufeffhello", "utf16le")), /UTF-16/],
    [
      "Latin-1",
      () => write("l1.txt", Buffer.from("caf\u00e9 au lait", "latin1")),
      /not UTF-8 text \(byte 0xE9 at offset 3\).*iconv/,
    ],
    [
      "Latin-1 past the first chunk",
      () => write("l2.txt", Buffer.from(`${"x".repeat(300_000)}\u00e9 au lait`, "latin1")),
      /byte 0xE9 at offset 300000\)/,
    ],
    [
      "a character cut off by a chunk's end",
      () =>
        write(
          "l3.txt",
          Buffer.concat([Buffer.from(`${"x".repeat(2 ** 18 - 4)}é😀`).subarray(0, -2), Buffer.from("y")]),
        ),
      /byte 0xF0 at offset 262142\)/,
    ],
    [
      "the end inside a character",
      () => write("l4.txt", Buffer.from("one 😀").subarray(0, -1)),
      /byte 0xF0 at offset 4\)/,
    ],
    ["a stray continuation", () => write("l5.txt", Uint8Array.of(0x80, 0x41)), /byte 0x80 at offset 0\)/],
    ["a zero byte later", () => write("l6.txt", `${"x".repeat(300_000)}\0`), /zero byte at offset 300000/],
    [
      "gzip with more behind it",
      () => write("w.gz", Buffer.concat([gzipSync("a"), Buffer.from("b")])),
      /damaged/,
    ],
    [
      "gzip without end",
      () => write("bomb.gz", gzipSync(Buffer.alloc(2 ** 28 + 2 ** 18, " "))),
      /unpacks to more than 200 times/,
    ],
    ["half a character", () => write("k.jsonl", '{"text": "a"}\n{"text": "\\ud83d"}'), /line 2 .*surrogate/],
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
    expect(await fileSource([path], { separator: "\n" }).hash()).not.toBe(first);
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
    expect(await read(join(data, "names.txt"), { separator: "\n" })).toHaveLength(32033);
  },
);
