import fc from "fast-check";
import { describe, expect, test, vi } from "vitest";
import { countTokens, type Span, splitDocuments } from "../train/data/index.ts";

// Generous, because other work may share the machine; nothing here waits.
vi.setConfig({ testTimeout: 60_000 });

/** Documents of these lengths, one after the other, three bytes a token. */
function documentsOf(lengths: readonly number[]): Span[] {
  let start = 0;
  return lengths.map((length) => {
    const span = { start, length, bytes: 3 * length };
    start += length;
    return span;
  });
}

describe("splitDocuments", () => {
  const lengths = fc.array(fc.oneof(fc.integer({ min: 1, max: 30 }), fc.integer({ min: 500, max: 5000 })), {
    minLength: 1,
    maxLength: 60,
  });

  test("holds out the asked share of the tokens, whatever the lengths, and loses no token and no byte", () => {
    fc.assert(
      fc.property(
        lengths,
        fc.double({ min: 0.01, max: 0.5, noNaN: true }),
        fc.nat(),
        (some, fraction, seed) => {
          const all = documentsOf(some);
          fc.pre(some.some((length) => length >= 4));
          const { train, validation } = splitDocuments(all, { fraction, seed });
          const pieces = [...train, ...validation].sort((a, b) => a.start - b.start);
          let end = 0;
          for (const piece of pieces) {
            expect(piece.start).toBe(end);
            end += piece.length;
          }
          expect(end).toBe(countTokens(all));
          expect(pieces.reduce((sum, { bytes }) => sum + bytes, 0)).toBe(3 * end);
          for (const side of [train, validation]) {
            expect(side.some((span) => span.length >= 2)).toBe(true);
          }
          // Half of a short document, two tokens where a side would have none, and the rounding of each cut.
          const target = fraction * end;
          const longest = Math.max(0, ...some.filter((length) => length <= target));
          const bound = longest / 2 + 2 + 2 * some.filter((length) => length > target).length;
          expect(Math.abs(countTokens(validation) - target)).toBeLessThanOrEqual(bound);
        },
      ),
    );
  });

  test("two files of 254 kB and 14 bytes: the large one is learned from", () => {
    for (let seed = 0; seed < 20; seed++) {
      const { train, validation } = splitDocuments(documentsOf([166_982, 12]), { fraction: 0.05, seed });
      expect(countTokens(train)).toBe(166_994 - 8349);
      expect(countTokens(validation)).toBe(8349);
    }
  });

  test("every long document gives its end, so that three books are all measured", () => {
    const { train, validation } = splitDocuments(documentsOf([1000, 2000, 3000]), { fraction: 0.1, seed: 1 });
    expect(train.map(({ length }) => length)).toEqual([900, 1800, 2700]);
    expect(validation).toEqual([
      { start: 900, length: 100, bytes: 300 },
      { start: 2800, length: 200, bytes: 600 },
      { start: 5700, length: 300, bytes: 900 },
    ]);
  });

  test("short documents stay whole, are chosen by the seed, and stay held out when others are added", () => {
    const few = documentsOf(Array(500).fill(10));
    const held = splitDocuments(few, { fraction: 0.2, seed: 5 }).validation;
    expect(held).toHaveLength(100);
    for (const span of held) expect(few).toContainEqual(span);
    const more = splitDocuments(documentsOf(Array(501).fill(10)), { fraction: 0.2, seed: 5 }).validation;
    expect(held.filter((span) => !more.some(({ start }) => start === span.start))).toEqual([]);
    expect(splitDocuments(few, { fraction: 0.2, seed: 6 }).validation).not.toEqual(held);
  });

  test("nothing for fraction 0; a corpus too small says so", () => {
    const one = documentsOf([100]);
    expect(splitDocuments(one, { fraction: 0, seed: 1 })).toEqual({ train: one, validation: [] });
    expect(() => splitDocuments(one, { fraction: 1, seed: 1 })).toThrow(/fraction/);
    expect(splitDocuments(documentsOf([4, 1]), { fraction: 0.01, seed: 1 }).validation).toEqual([
      { start: 2, length: 2, bytes: 6 },
    ]);
    expect(() => splitDocuments(documentsOf([3]), { fraction: 0.5, seed: 1 })).toThrow(
      /too small to hold out/,
    );
  });
});
