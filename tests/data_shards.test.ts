import {
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { Tokenizer, trainBpe } from "../tokenizer/index.ts";
import { storyCorpus, storySource, type TextPart } from "../train/data/index.ts";
import { cachedShard, openShard, type Span, type TokenShard, writeShard } from "../train/data/shards.ts";

// Generous, because other work may share the machine; nothing here waits.
vi.setConfig({ testTimeout: 60_000 });

const tokenizer = new Tokenizer(trainBpe(storyCorpus({ seed: 1, stories: 30 }), { vocab_size: 400 }));
const special = { special_tokens: ["<|begin|>", "<|endoftext|>"], bos_token: null };
const withoutBos = new Tokenizer(
  trainBpe(storyCorpus({ seed: 1, stories: 30 }), { vocab_size: 400, ...special }),
);

let folder = "";
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "kiln-shards-"));
});
afterAll(() => rmSync(folder, { recursive: true }));

const whole = (texts: Iterable<string>): TextPart[] => Array.from(texts, (text) => ({ text, ends: true }));
const origin = { source_hash: "source", left_out: {} };

function tokensOf(shard: TokenShard, span: Span): number[] {
  const out = new Int32Array(span.length);
  shard.read(span.start, span.length, out);
  return Array.from(out);
}

describe("token files", () => {
  test("hold the tokens and bytes of every document, with its boundaries", async () => {
    const texts = fc.array(fc.string({ unit: "grapheme", minLength: 1, maxLength: 80 }), {
      minLength: 1,
      maxLength: 20,
    });
    await fc.assert(
      fc.asyncProperty(texts, fc.constantFrom(tokenizer, withoutBos), async (some, encoder) => {
        const file = join(folder, "any.tokens");
        const header = await writeShard(file, whole(some), encoder, origin);
        const shard = openShard(file);
        try {
          expect(shard.header).toEqual(header);
          expect(shard.documents).toHaveLength(some.length);
          expect(header.text_bytes).toBe(some.reduce((sum, text) => sum + Buffer.byteLength(text), 0));
          expect(header.tokens).toBe(shard.documents.reduce((sum, span) => sum + span.length, 0));
          for (const [i, text] of some.entries()) {
            const ids = tokensOf(shard, shard.documents[i]);
            const plain = await encoder.encode(text, { addSpecialTokens: false, parseSpecialTokens: false });
            const begin = encoder.addsBos ? [encoder.bosId] : [];
            expect(ids).toEqual([...begin, ...plain, encoder.eosId]);
            expect(shard.documents[i].bytes).toBe(Buffer.byteLength(text));
          }
        } finally {
          shard.close();
        }
      }),
      { numRuns: 40 },
    );
  });

  test("use two bytes a token for a small vocabulary, and leave no temporary file", async () => {
    const file = join(folder, "small.tokens");
    const header = await writeShard(file, whole(storyCorpus({ seed: 1, stories: 3000 })), tokenizer, origin);
    expect([header.dtype, header.documents, header.bos_id, header.eos_id]).toEqual(["uint16", 3000, 0, 0]);
    expect(readFileSync(file).length).toBeLessThan(4096 + header.tokens * 2 + 3 + 3000 * 8 + 1);
    expect(readdirSync(folder).filter((name) => name.includes("tmp"))).toEqual([]);
    const shard = openShard(file);
    expect(tokenizer.decode(tokensOf(shard, shard.documents[2999]))).toBe(
      [...storyCorpus({ seed: 1, stories: 3000 })][2999],
    );
    expect(() => shard.read(header.tokens - 1, 2, new Int32Array(2))).toThrow(RangeError);
    shard.close();
  });

  test("use four bytes a token for a vocabulary above 65536", async () => {
    const json = structuredClone(tokenizer.json);
    const flags = { single_word: false, lstrip: false, rstrip: false, normalized: false, special: true };
    const vocab = json.model.vocab as Record<string, number>;
    for (let id = 400; id < 70_000; id++) vocab[`token ${id}`] = id;
    json.added_tokens.push({ id: 70_000, content: "<|far|>", ...flags });
    const large = new Tokenizer(json);
    const file = join(folder, "large.tokens");
    const header = await writeShard(file, whole(["a<|far|>b"]), large, origin, { parseSpecialTokens: true });
    expect(header.dtype).toBe("uint32");
    const shard = openShard(file);
    expect(tokensOf(shard, shard.documents[0])).toContain(70_000);
    shard.close();
  });

  test("a failed write leaves nothing behind", async () => {
    const file = join(folder, "failed.tokens");
    const broken = (function* () {
      yield { text: "one", ends: true };
      throw new Error("the source broke");
    })();
    await expect(writeShard(file, broken, tokenizer, origin)).rejects.toThrow("the source broke");
    await expect(writeShard(file, [], tokenizer, origin)).rejects.toThrow(/empty/);
    const below = join(import.meta.filename, "x.tokens");
    await expect(writeShard(below, whole(["one"]), tokenizer, origin)).rejects.toThrow(
      /x.tokens cannot be written/,
    );
    expect(existsSync(file)).toBe(false);
    expect(readdirSync(folder).filter((name) => name.includes("failed"))).toEqual([]);
  });

  test("damage is noticed", async () => {
    const file = join(folder, "damaged.tokens");
    await writeShard(file, whole(["some text"]), tokenizer, origin);
    truncateSync(file, readFileSync(file).length - 2);
    expect(() => openShard(file)).toThrow(/damaged/);
    truncateSync(file, 100);
    expect(() => openShard(file)).toThrow(/not a whole kiln token file/);
    writeFileSync(file, "x".repeat(5000));
    expect(() => openShard(file)).toThrow(/not a whole kiln token file/);
    expect(() => openShard(join(folder, "nowhere"))).toThrow(/does not exist/);
  });
});

test("a second run uses the file of the first; another tokenizer or damage makes a new one", async () => {
  const cache = join(folder, "cache");
  const source = storySource({ seed: 1, stories: 20 });
  const prepare = async (encoder = tokenizer) => {
    const { shard, file, isCached } = await cachedShard(source, encoder, cache);
    const { documents } = shard.header;
    shard.close();
    return { file, isCached, documents };
  };
  const first = await prepare();
  expect(first).toMatchObject({ isCached: false, documents: 20 });
  expect(await prepare()).toEqual({ ...first, isCached: true });
  expect((await prepare(withoutBos)).file).not.toBe(first.file);
  truncateSync(first.file, 5000);
  expect(await prepare()).toEqual(first);
});
