import { Readable } from "node:stream";
import { describe, expect, it } from "vitest";
import { readContained } from "../serve/app/ingest/contained_read.ts";
import { Unreadable } from "../serve/app/ingest/extracted.ts";
import { wordDocument, wordParagraph } from "./support/documents.ts";

const reading = (content: Uint8Array, options = {}) =>
  readContained(Readable.from([content]), "file", options);

describe("a file in a process of its own", () => {
  it("is read, or refused in a sentence", async () => {
    const { kind, blocks } = await reading(wordDocument(wordParagraph("Within 30 days.")));
    expect({ kind, blocks }).toEqual({ kind: "docx", blocks: [{ text: "Within 30 days.", kind: "prose" }] });
    await expect(reading(Buffer.from("%PDF-1.4"))).rejects.toThrow(/damaged/);
  });

  it("ends where it takes too much memory or says too much", async () => {
    const hungry = Buffer.from(`[${"{},".repeat(3_000_000)}{}]`);
    await expect(reading(hungry, { heapBytes: 32 * 2 ** 20 })).rejects.toThrow(/more than 32 MB of memory/);
    await expect(
      reading(Buffer.from("word ".repeat(100_000)), { outputBytes: 10_000 }),
    ).rejects.toBeInstanceOf(Unreadable);
  });

  it("stops when it is told to, and passes on what the source fails with", async () => {
    const stopped = readContained(new Readable({ read() {} }), "file", { signal: AbortSignal.timeout(200) });
    await expect(stopped).rejects.toThrow(/abort|timeout/i);
    const broken = new Readable({
      read() {
        this.destroy(new Error("the disk is gone"));
      },
    });
    await expect(readContained(broken, "file")).rejects.toThrow("the disk is gone");
  });
});
