import { describe, expect, it } from "vitest";
import { philox4x32, seedWords, toUnit } from "../core/random.ts";

describe("philox4x32", () => {
  // The known answers that come with Random123 (Salmon et al. 2011).
  const ones = 0xffffffff;
  const known: [readonly [number, number], readonly [number, number, number, number], number[]][] = [
    [
      [0, 0],
      [0, 0, 0, 0],
      [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8],
    ],
    [
      [ones, ones],
      [ones, ones, ones, ones],
      [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd],
    ],
    [
      [0xa4093822, 0x299f31d0],
      [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344],
      [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1],
    ],
  ];
  for (const [key, counter, words] of known) {
    it(`of ${counter} under ${key}`, () => expect([...philox4x32(key, counter)]).toEqual(words));
  }

  it("makes numbers in [0, 1) and keys of any seed", () => {
    expect(toUnit(0)).toBe(0);
    expect(toUnit(0xffffffff)).toBe(1 - 2 ** -24);
    expect(seedWords(2 ** 40 + 5)).toEqual([5, 256]);
    expect(seedWords(-1n)).toEqual([0xffffffff, 0xffffffff]);
  });
});
