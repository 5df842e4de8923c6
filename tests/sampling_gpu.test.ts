import { readFileSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { setDevice } from "../core/device.ts";
import { philox4x32, seedWords, toUnit } from "../core/random.ts";
import { tensor } from "../core/tensor.ts";
import type { WebGpuDevice } from "../core/webgpu/device.ts";
import {
  filteredWeights,
  openDevice,
  type SamplingSettings,
  sampleToken,
  sampleTokens,
  settingsRow,
} from "../kernels/index.ts";
import { generator } from "./support/ops_harness.ts";

let gpu: WebGpuDevice;
beforeAll(async () => {
  gpu = await openDevice();
});
afterAll(() => setDevice(null));

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

interface Row {
  logits: number[];
  settings: SamplingSettings;
  key: number[];
}

function randomRows(vocabulary: number, seed: string): Row[] {
  const next = generator(seed);
  const rows: Row[] = [];
  for (const temperature of [0, 0.7, 1, 1.5]) {
    for (const topK of [0, 1, 5, 10_000]) {
      for (const topP of [1, 0.9, 0.3]) {
        for (const minP of [0, 0.1]) {
          rows.push({
            logits: Array.from({ length: vocabulary }, () => Math.fround(next() * 16 - 8)),
            settings: {
              temperature: Math.fround(temperature),
              topK,
              topP: Math.fround(topP),
              minP: Math.fround(minP),
            },
            key: [0, 1, 2, 3].map(() => Math.floor(next() * 2 ** 32)),
          });
        }
      }
    }
  }
  return rows;
}

async function draw(rows: readonly Row[]): Promise<number[]> {
  const width = rows[0].logits.length;
  const logits = tensor(
    rows.flatMap((r) => r.logits),
    [rows.length, width],
  );
  const settings = tensor(
    rows.flatMap((r) => settingsRow(r.settings)),
    [rows.length, 8],
  );
  const keys = tensor(
    rows.flatMap((r) => r.key),
    [rows.length, 4],
    "u32",
  );
  return Array.from(await sampleTokens(logits, settings, keys).data());
}

describe("sampleTokens", () => {
  for (const vocabulary of [1, 37, 1000]) {
    it(`draws what the host draws from ${vocabulary} tokens`, async () => {
      const rows = randomRows(vocabulary, `sampling ${vocabulary}`);
      const expected = rows.map(({ logits, settings, key: [low, high, choice, position] }) =>
        sampleToken(logits, settings, { seed: [low!, high!], choice: choice!, position: position! }),
      );
      expect(await draw(rows)).toEqual(expected);
    });
  }

  it("depends on nothing but the row", async () => {
    const rows = randomRows(301, "alone");
    const together = await draw(rows);
    for (const i of [0, 13, 50, 95]) expect(await draw([rows[i]])).toEqual([together[i]]);
    expect((await draw([...rows].reverse())).reverse()).toEqual(together);
  });

  it("follows the distribution", async () => {
    const logits = [0, 1, 2, -1, Number.NEGATIVE_INFINITY, 0.5];
    const settings = { temperature: 1, topK: 0, topP: 1, minP: 0 };
    const count = 4000;
    const ids = await draw(
      Array.from({ length: count }, (_, i) => ({ logits, settings, key: [9, 0, 0, i] })),
    );
    const weights = filteredWeights(logits, settings);
    const all = weights.reduce((a, b) => a + b, 0);
    weights.forEach((w, id) => {
      const p = w / all;
      const seen = ids.filter((x) => x === id).length;
      expect(Math.abs(seen - count * p), `token ${id}`).toBeLessThanOrEqual(
        4 * Math.sqrt(count * p * (1 - p)),
      );
    });
  });

  it("every variant of the kernel draws the same", async () => {
    const rows = randomRows(130, "variants");
    const expected = await draw(rows);
    gpu.forcedVariant.set("sample_tokens", "workgroup");
    try {
      expect(await draw(rows)).toEqual(expected);
    } finally {
      gpu.forcedVariant.delete("sample_tokens");
    }
  });
});

describe("filters equal transformers' warpers", () => {
  const golden = JSON.parse(
    readFileSync(new URL("./fixtures/golden/sampling.json", import.meta.url), "utf8"),
  );
  for (const { name, attrs, probs } of golden.cases) {
    if ("repetition_penalty" in attrs) continue;
    it(name, () => {
      const { temperature = 1, top_k: topK = 0, top_p: topP = 1, min_p: minP = 0 } = attrs;
      golden.logits.forEach((logits: number[], row: number) => {
        const weights = filteredWeights(logits, { temperature, topK, topP, minP });
        const all = weights.reduce((a, b) => a + b, 0);
        weights.forEach((w, i) => {
          expect(w / all).toBeCloseTo(probs[row][i], 6);
        });
      });
    });
  }
});
