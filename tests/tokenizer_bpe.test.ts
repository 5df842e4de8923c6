import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { BPE, byteLevelPreTokenizer, Tokenizer as NativeTokenizer } from "tokenizers";
import { describe, expect, test, vi } from "vitest";
import { byteToChar, fromByteAlphabet } from "../tokenizer/byte_alphabet.ts";
import { GPT2_PATTERN, Tokenizer, TokenizerError, type TokenizerJson, trainBpe } from "../tokenizer/index.ts";
import { storyCorpus } from "../train/data/stories/grammar.ts";

// Generous, because other work may share the machine; nothing here waits.
vi.setConfig({ testTimeout: 60_000 });

const corpus = [
  ...storyCorpus({ seed: 3, stories: 400 }),
  "Grüße an die Straße, naïve café. 日本語のテキスト 日本語。 Привет, мир! 😀😀 👩‍👩‍👧 3.14159 x += 10;\t\tend\r\n\n  aaaa aaa aaaaaa",
];
const json = trainBpe(corpus, { vocab_size: 1200 });
const tokenizer = new Tokenizer(json);

/** An encoder written from the definition of BPE, slow and plain: always merge the pair with the lowest rank. */
function referenceEncode(text: string, { model }: TokenizerJson): number[] {
  const vocab = model.vocab as Record<string, number>;
  const ranks = new Map((model.merges as [string, string][]).map((pair, rank) => [pair.join(" "), rank]));
  return (text.match(GPT2_PATTERN) ?? []).flatMap((word) => {
    const parts = Array.from(new TextEncoder().encode(word), (byte) => byteToChar[byte]);
    for (;;) {
      let best = -1;
      let bestRank = Number.POSITIVE_INFINITY;
      for (let i = 0; i + 1 < parts.length; i++) {
        const rank = ranks.get(`${parts[i]} ${parts[i + 1]}`) ?? Number.POSITIVE_INFINITY;
        if (rank < bestRank) [best, bestRank] = [i, rank];
      }
      if (best < 0) return parts.map((part) => vocab[part]);
      parts.splice(best, 2, parts[best] + parts[best + 1]);
    }
  });
}

const pieces = fc.constantFrom(
  ..."the cat sat|  |\n\n| \t|don't|WE'LL|😀|👩‍👩‍👧|🇩🇪|é|e\u0301|日本|語|Привет|12|345|...|!?|_|\u00a0|\u3000|\ufeff|ß|ﬁ|שלום|"
    .split("|")
    .concat(corpus[0].split(" ").slice(0, 20)),
);
/** Blocks without letters newer than Unicode 15, about which Node and the library may disagree. */
const settled = /^[\0-\u{88e}\u{2000}-\u{a7cd}\u{ac00}-\u{d7a3}\u{f900}-\u{ffff}\u{1f000}-\u{1faff}]*$/u;
const anyText = fc.oneof(
  fc.array(pieces, { maxLength: 30 }).map((parts) => parts.join("")),
  fc.string({
    unit: fc.string({ unit: "grapheme", minLength: 1, maxLength: 1 }).filter((text) => settled.test(text)),
    maxLength: 60,
  }),
  fc.string({ unit: "grapheme-ascii", maxLength: 60 }),
);

describe("trainBpe", () => {
  test("reads texts that are too long for one match, and cuts no word", () => {
    const emoji = trainBpe(["😀".repeat(2 ** 22)], { vocab_size: 258 });
    expect(emoji.model.merges).toHaveLength(1);
    const lines = "the cat sat  on\tthe mat\n".repeat(100_000);
    const parts = lines.match(/[\s\S]{2400}/g)!;
    expect(trainBpe([lines], { vocab_size: 300 })).toEqual(trainBpe(parts, { vocab_size: 300 }));
  });

  test("puts special tokens first, then the 256 bytes, then merges, up to the asked size", () => {
    const vocab = json.model.vocab as Record<string, number>;
    expect(vocab["<|endoftext|>"]).toBe(0);
    expect(Object.keys(vocab)).toHaveLength(1200);
    expect(new Set(Object.values(vocab)).size).toBe(1200);
    for (const char of byteToChar) expect(vocab[char]).toBeGreaterThan(0);
    expect(json.model.merges).toHaveLength(1200 - 257);
  });

  test("is deterministic and does not learn special tokens", () => {
    expect(trainBpe(corpus, { vocab_size: 1200 })).toEqual(json);
    const marked = corpus.map((text) => `${text}<|endoftext|>`);
    expect(trainBpe(marked, { vocab_size: 1200 })).toEqual(json);
  });

  test("merges the most frequent pair first; ties go to the smaller ids", () => {
    const small = trainBpe(["ab ab ab cd cd ef ef"], { vocab_size: 261, special_tokens: [] });
    expect((small.model.merges as string[][])[0]).toEqual(["a", "b"]);
    const tie = trainBpe(["dc ba"], { vocab_size: 257, special_tokens: [], min_frequency: 1 });
    expect((tie.model.merges as string[][])[0]).toEqual(["b", "a"]);
  });

  test("min_frequency ends the training early", () => {
    const few = trainBpe(["abc abc xyz"], { vocab_size: 4000, min_frequency: 3 });
    expect(few.model.merges).toEqual([]);
  });

  test("gives the merges of Hugging Face's own trainer", () => {
    const folder = mkdtempSync(join(tmpdir(), "kiln-bpe-"));
    try {
      // That trainer reads line by line, starts from the bytes that occur, and merges whatever occurs at all.
      const lines = corpus.flatMap((text) => text.split("\n").map((line) => `${line}\n`));
      writeFileSync(join(folder, "corpus.txt"), lines.join(""));
      const native = new NativeTokenizer(BPE.empty());
      native.setPreTokenizer(byteLevelPreTokenizer(false, true));
      native.train([join(folder, "corpus.txt")]);
      native.save(join(folder, "tokenizer.json"));
      const theirs = JSON.parse(readFileSync(join(folder, "tokenizer.json"), "utf8")) as TokenizerJson;
      const ours = trainBpe(lines, { vocab_size: 30000, special_tokens: [], min_frequency: 1 });
      expect(theirs.model.merges).toHaveLength((ours.model.merges as string[][]).length);
      expect(ours.model.merges).toEqual(theirs.model.merges);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  test("says what is wrong with its options", () => {
    expect(() => trainBpe(["a"], { vocab_size: 200 })).toThrow(/at least 257/);
    expect(() => trainBpe([], { vocab_size: 300 })).toThrow(TokenizerError);
    expect(() => trainBpe(["a"], { vocab_size: 300, special_tokens: ["<s>", "<s>"] })).toThrow(/differ/);
    expect(() => trainBpe(["a"], { vocab_size: 300, bos_token: "<x>" })).toThrow(/not one of/);
  });
});

describe("the trained tokenizer.json", () => {
  test("gives in `tokenizers` the ids of the definition, and round trips, for any text", async () => {
    await fc.assert(
      fc.asyncProperty(anyText, async (text) => {
        const ids = await tokenizer.encode(text, { addSpecialTokens: false });
        expect(ids).toEqual(referenceEncode(text, json));
        expect(tokenizer.decode(ids)).toBe(text);
      }),
      { numRuns: 150 },
    );
  });

  test("round trips every kind of code point", async () => {
    await fc.assert(
      fc.asyncProperty(fc.string({ unit: "binary", maxLength: 50 }), async (text) => {
        expect(tokenizer.decode(await tokenizer.encode(text))).toBe(text);
      }),
      { numRuns: 150 },
    );
  });

  test("starts a text with its begin token, and maps special tokens in a text", async () => {
    expect(await tokenizer.encode("")).toEqual([0]);
    expect(await tokenizer.encode("<|endoftext|>", { addSpecialTokens: false })).toEqual([0]);
    const plain = new Tokenizer(trainBpe(corpus, { vocab_size: 300, bos_token: null }));
    expect([plain.addsBos, await plain.encode("")]).toEqual([false, []]);
    expect([tokenizer.addsBos, tokenizer.bosId, tokenizer.eosId]).toEqual([true, 0, 0]);
  });
});

test("the byte alphabet is one printable character a byte, and its own inverse", () => {
  expect(new Set(byteToChar).size).toBe(256);
  expect(byteToChar[0x20]).toBe("Ġ");
  expect(byteToChar[0x0a]).toBe("Ċ");
  const bytes = Uint8Array.from({ length: 256 }, (_, byte) => byte);
  expect(fromByteAlphabet(byteToChar.join(""))).toEqual(bytes);
});
