import fc from "fast-check";
import { Tokenizer as NativeTokenizer } from "tokenizers";
import { describe, expect, test, vi } from "vitest";
import { byteToChar } from "../tokenizer/byte_alphabet.ts";
import { Tokenizer } from "../tokenizer/index.ts";
import { bytes, kinds, replace, sequence, strip } from "./support/decoder_kinds.ts";

// Generous, because other work may share the machine; nothing here waits.
vi.setConfig({ testTimeout: 60_000 });

/** Where kiln keeps the complete characters of a run of byte tokens that has an invalid byte; the library gives up the run. */
const byteRunsKept = ["sentencepiece with byte fallback", "ByteFallback"];

/** The ids with U+FFFD in place of each byte token that is no part of a character. */
function withoutBadBytes(tokenizer: Tokenizer, ids: readonly number[]): number[] {
  const lost = tokenizer.tokenToId("�")!;
  const byteOf = (id: number | undefined) => bytes.indexOf(tokenizer.idToToken(id ?? -1) ?? "");
  const isCharacter = (run: number[]) => {
    const text = Buffer.from(run).toString("utf8");
    return !run.includes(-1) && [...text].length === 1 && Buffer.from(text).equals(Buffer.from(run));
  };
  const out: number[] = [];
  for (let at = 0; at < ids.length; ) {
    const length = [1, 2, 3, 4].find((size) => isCharacter(ids.slice(at, at + size).map(byteOf)));
    if (length === undefined) out.push(byteOf(ids[at]) < 0 ? ids[at] : lost);
    else out.push(...ids.slice(at, at + length));
    at += length ?? 1;
  }
  return out;
}

describe.each(Object.entries(kinds))("StreamDecoder: %s", (kind, json) => {
  const tokenizer = new Tokenizer(json);
  const native = NativeTokenizer.fromString(JSON.stringify(json));

  const byteId = (byte: number) =>
    tokenizer.tokenToId(bytes[byte]) ?? tokenizer.tokenToId(byteToChar[byte]) ?? tokenizer.vocabSize;
  const shown = (ids: number[], skip: boolean) =>
    ids.filter((id) => id < tokenizer.vocabSize && !(skip && tokenizer.isSpecial(id)));

  test("joined deltas equal the whole decode, for any ids, of us and of the library", async () => {
    const id = fc.nat(tokenizer.vocabSize + 2);
    // Bytes of real characters, so that valid sequences are cut at every place as well.
    const known = fc
      .string({ unit: "grapheme", maxLength: 8 })
      .map((text) => Array.from(new TextEncoder().encode(text), byteId));
    const ids = fc
      .array(
        fc.oneof(
          id.map((one) => [one]),
          known,
        ),
        { maxLength: 40 },
      )
      .map((parts) => parts.flat());
    await fc.assert(
      fc.asyncProperty(ids, fc.boolean(), async (some, skipSpecialTokens) => {
        const whole = tokenizer.decode(some, { skipSpecialTokens });
        const stream = tokenizer.streamDecoder({ skipSpecialTokens });
        const joined = some.map((one) => stream.push(one)).join("") + stream.flush();
        expect(joined).toBe(whole);
        const known = shown(some, skipSpecialTokens);
        const readable = byteRunsKept.includes(kind) ? withoutBadBytes(tokenizer, known) : known;
        expect(await native.decode(readable, skipSpecialTokens)).toBe(whole);
      }),
      { numRuns: 200 },
    );
  });
});

test("an emoji is held back until its last byte, and ASCII never", async () => {
  const tokenizer = new Tokenizer(kinds["byte-level BPE"]);
  const stream = tokenizer.streamDecoder();
  const ids = await tokenizer.encode("a😀b", { addSpecialTokens: false });
  expect(ids.map((id) => stream.push(id))).toEqual(["a", "", "", "", "😀", "b"]);
  expect(stream.flush()).toBe("");
});

test("a sequence that never ends becomes U+FFFD at the flush", async () => {
  const tokenizer = new Tokenizer(kinds["byte-level BPE"]);
  const stream = tokenizer.streamDecoder();
  const ids = (await tokenizer.encode("😀", { addSpecialTokens: false })).slice(0, 2);
  expect(ids.map((id) => stream.push(id))).toEqual(["", ""]);
  expect(stream.flush()).toBe("\uFFFD");
});

test("the first space of a sentencepiece text goes, later ones stay", () => {
  const tokenizer = new Tokenizer(kinds["sentencepiece with byte fallback"]);
  const stream = tokenizer.streamDecoder();
  const ids = ["<s>", "▁Once", "▁up", "on", "▁", "▁a"].map((token) => tokenizer.tokenToId(token)!);
  expect(ids.map((id) => stream.push(id))).toEqual(["", "Once", " up", "on", " ", " a"]);
});

test("each complete character of a run of byte tokens comes with its last byte", () => {
  const tokenizer = new Tokenizer(kinds["sentencepiece with byte fallback"]);
  const stream = tokenizer.streamDecoder();
  const run = [0x0a, 0x0a, 0xe2, 0x82, 0xac, 0xe2, 0x41, 0xff, 0x0a];
  const pieces = run.map((byte) => stream.push(tokenizer.tokenToId(bytes[byte])!));
  expect(pieces).toEqual(["\n", "\n", "", "", "€", "", "\uFFFDA", "\uFFFD", "\n"]);
  expect(stream.flush()).toBe("");
});

test("a strip of both ends holds back what may be the end, and short texts are no harm", () => {
  // No comparison with the library: it ends the process where a text is shorter than what is to be stripped.
  const tokenizer = new Tokenizer(sequence(replace, { type: "Fuse" }, { ...strip, start: 2, stop: 2 }));
  const space = tokenizer.tokenToId("▁")!;
  fc.assert(
    fc.property(fc.array(fc.constantFrom(space, tokenizer.tokenToId("a")!), { maxLength: 12 }), (ids) => {
      const text = ids.map((id) => (id === space ? " " : "a")).join("");
      const want = text.replace(/^ {0,2}/, "").replace(/ {0,2}$/, "");
      expect(tokenizer.decode(ids)).toBe(want);
    }),
  );
});

test("a copy goes its own way, and a flush changes nothing", () => {
  for (const json of Object.values(kinds)) {
    const tokenizer = new Tokenizer(json);
    const ids = fc.array(fc.nat(tokenizer.vocabSize - 1), { maxLength: 12 });
    fc.assert(
      fc.property(ids, ids, ids, (before, one, other) => {
        const stream = tokenizer.streamDecoder();
        const read = (some: number[], by = stream) => some.map((id) => by.push(id)).join("");
        const start = read(before);
        expect(start + stream.flush()).toBe(tokenizer.decode(before));
        const twin = stream.copy();
        expect(start + read(one) + stream.flush()).toBe(tokenizer.decode([...before, ...one]));
        expect(start + read(other, twin) + twin.flush()).toBe(tokenizer.decode([...before, ...other]));
      }),
      { numRuns: 20 },
    );
  }
});
