import fc from "fast-check";
import { describe, expect, test, vi } from "vitest";
import { type Batch, IGNORE, PackedBatches, validationBatches } from "../train/data/packing.ts";
import { permutation } from "../train/data/permutation.ts";
import type { Span, TokenShard } from "../train/data/shards.ts";

// Generous, because other work may share the machine; nothing here waits.
vi.setConfig({ testTimeout: 60_000 });

/** A corpus in memory whose token at place p is p + 1, so that every token of a batch says where it comes from. */
function corpusOf(lengths: number[]): { shard: TokenShard; spans: Span[]; documentOf: number[] } {
  let start = 0;
  const spans = lengths.map((length) => {
    const span = { start, length, bytes: length * 3 + 1 };
    start += length;
    return span;
  });
  const shard = {
    read(from: number, count: number, out: Int32Array, at = 0) {
      for (let i = 0; i < count; i++) out[at + i] = from + i + 1;
    },
  } as TokenShard;
  return { shard, spans, documentOf: lengths.flatMap((length, i) => Array<number>(length).fill(i)) };
}

/** Checks every rule of a packed batch and returns the places of its tokens. */
function checkBatch(batch: Batch, seqLen: number, spans: Span[], documentOf: number[]): number[] {
  const seen: number[] = [];
  let supervised = 0;
  for (let i = 0; i < batch.tokens.length; i++) {
    const isRowStart = i % seqLen === 0;
    const continues = !isRowStart && batch.segments[i] === batch.segments[i - 1];
    expect(batch.positions[i]).toBe(continues ? batch.positions[i - 1] + 1 : 0);
    if (isRowStart) expect(batch.segments[i]).toBe(0);
    else if (!continues) expect(batch.segments[i]).toBe(batch.segments[i - 1] + 1);

    const place = batch.tokens[i] - 1;
    if (place < 0) {
      expect(batch.targets[i]).toBe(IGNORE);
      continue;
    }
    seen.push(place);
    const span = spans[documentOf[place]];
    const isLast = place === span.start + span.length - 1;
    expect(batch.targets[i]).toBe(isLast ? IGNORE : place + 2);
    if (!isLast) supervised++;
    const before = batch.tokens[i - 1] - 1;
    if (continues) expect(before).toBe(place - 1);
    else if (!isRowStart) {
      // A new piece is another document's, or the same one's again where it is the end and the start of the ring.
      const again = before === span.start + span.length - 1 && place === span.start;
      expect(documentOf[before] !== documentOf[place] || again).toBe(true);
    }
  }
  expect(batch.supervised).toBe(supervised);
  return seen;
}

const lengths = fc.array(fc.integer({ min: 1, max: 40 }), { minLength: 1, maxLength: 25 });
const shape = {
  batchSize: fc.integer({ min: 1, max: 5 }),
  seqLen: fc.integer({ min: 2, max: 24 }),
  seed: fc.nat(),
};
const total = (list: number[]) => list.reduce((sum, length) => sum + length, 0);

describe("PackedBatches", () => {
  test("every token comes every epoch, in correct rows; only what fills the last row comes twice", () => {
    fc.assert(
      fc.property(lengths, fc.record(shape), (some, options) => {
        const { shard, spans, documentOf } = corpusOf(some);
        const batches = new PackedBatches(shard, spans, { ...options, batchSize: 1 });
        const tokens = total(some);
        for (let epoch = 0; epoch < 3; epoch++) {
          const seen: number[] = [];
          while (batches.state().epoch === epoch) {
            seen.push(...checkBatch(batches.next(), options.seqLen, spans, documentOf));
          }
          expect(new Set(seen).size).toBe(tokens);
          const rows = Math.ceil(tokens / options.seqLen);
          expect(seen.length).toBe(tokens < options.seqLen ? tokens : rows * options.seqLen);
          const counts = seen.reduce((map, place) => map.set(place, (map.get(place) ?? 0) + 1), new Map());
          expect(Math.max(...counts.values())).toBeLessThanOrEqual(2);
        }
      }),
    );
  });

  test("a single document is cut elsewhere in every epoch: no row comes again", () => {
    const { shard, spans } = corpusOf([1000]);
    const seqLen = 16;
    const batches = new PackedBatches(shard, spans, { batchSize: 1, seqLen, seed: 4 });
    const starts = new Set<number>();
    let rows = 0;
    for (; batches.state().epoch < seqLen; rows++) starts.add(batches.next().tokens[0]);
    expect(rows).toBe(seqLen * Math.ceil(1000 / seqLen));
    // 63 rows of 16 reach eight tokens past the end: over all phases each place begins a row once, eight twice.
    expect(starts.size).toBe(1000);
  });

  test("a restored state goes on exactly, whatever the place", () => {
    fc.assert(
      fc.property(
        lengths,
        fc.record(shape),
        fc.nat(30),
        fc.integer({ min: 1, max: 20 }),
        (some, options, k, more) => {
          const { shard, spans, documentOf } = corpusOf(some);
          const through = new PackedBatches(shard, spans, options);
          for (let i = 0; i < k; i++) through.next();
          const state = JSON.parse(JSON.stringify(through.state()));
          const resumed = new PackedBatches(shard, spans, options);
          resumed.restore(state);
          for (let i = 0; i < more; i++) {
            const batch = resumed.next();
            expect(batch).toEqual(through.next());
            checkBatch(batch, options.seqLen, spans, documentOf);
          }
          expect(resumed.state()).toEqual(through.state());
        },
      ),
    );
  });

  test("the batch size changes how rows are grouped, not the rows", () => {
    const { shard, spans } = corpusOf([30, 7, 12, 1, 44, 9, 16]);
    const rowsOf = (batchSize: number) => {
      const batches = new PackedBatches(shard, spans, { batchSize, seqLen: 8, seed: 3 });
      return Array.from({ length: 12 / batchSize }, () => Array.from(batches.next().targets)).flat();
    };
    expect(rowsOf(4)).toEqual(rowsOf(1));
  });

  test("epochs and seeds give different orders", () => {
    const { shard, spans } = corpusOf(Array(50).fill(8));
    const order = (seed: number, epoch: number) => {
      const batches = new PackedBatches(shard, spans, { batchSize: 50, seqLen: 8, seed });
      batches.restore({ epoch, index: 0 });
      return Array.from(batches.next().tokens);
    };
    expect(order(1, 0)).toEqual(order(1, 0));
    expect(order(1, 0)).not.toEqual(order(1, 1));
    expect(order(1, 0)).not.toEqual(order(2, 0));
    expect(order(1, 0).sort((a, b) => a - b)).toEqual(order(2, 5).sort((a, b) => a - b));
  });

  test("a hand-checked row: two documents and the start of a third", () => {
    const { shard, spans } = corpusOf([3, 2, 4]);
    const [batch] = [...validationBatches(shard, spans, { batchSize: 1, seqLen: 7 })];
    expect(Array.from(batch!.tokens)).toEqual([1, 2, 3, 4, 5, 6, 7]);
    expect(Array.from(batch!.targets)).toEqual([2, 3, IGNORE, 5, IGNORE, 7, 8]);
    expect(Array.from(batch!.positions)).toEqual([0, 1, 2, 0, 1, 0, 1]);
    expect(Array.from(batch!.segments)).toEqual([0, 0, 0, 1, 1, 2, 2]);
    expect([batch!.bytes, batch!.supervised]).toEqual([10 + 7 + 6, 5]);
  });

  test("says what is wrong", () => {
    const { shard, spans } = corpusOf([30]);
    const batches = new PackedBatches(shard, spans, { batchSize: 1, seqLen: 10, seed: 1 });
    expect(() => batches.restore({ epoch: 0, index: 3 })).toThrow(/has 3 rows/);
    expect(() => batches.restore({ epoch: -1, index: 0 })).toThrow(/cannot resume/);
    expect(() => new PackedBatches(shard, [], { batchSize: 1, seqLen: 10, seed: 1 })).toThrow(/no documents/);
    expect(() => new PackedBatches(shard, spans, { batchSize: 0, seqLen: 10, seed: 1 })).toThrow(
      /at least 1 row/,
    );
  });
});

describe("validationBatches", () => {
  test("show every token once, in order, with whole batches and all bytes", () => {
    fc.assert(
      fc.property(lengths, fc.record(shape), (some, { batchSize, seqLen }) => {
        const { shard, spans, documentOf } = corpusOf(some);
        const batches = [...validationBatches(shard, spans, { batchSize, seqLen })];
        const seen = batches.flatMap((batch) => checkBatch(batch, seqLen, spans, documentOf));
        expect(seen).toEqual(Array.from({ length: total(some) }, (_, i) => i));
        for (const batch of batches) expect(batch.tokens).toHaveLength(batchSize * seqLen);
        expect(total(batches.map((batch) => batch.bytes))).toBe(total(spans.map((span) => span.bytes)));
        expect(total(batches.map((batch) => batch.supervised))).toBe(total(some) - some.length);
      }),
    );
  });

  test("spread a number of rows evenly over the documents, whatever the batch size", () => {
    const { shard, spans } = corpusOf([100]);
    const starts = (rows: number, batchSize = 2) =>
      [...validationBatches(shard, spans, { batchSize, seqLen: 5, rows })].flatMap((batch) =>
        Array.from({ length: batchSize }, (_, i) => batch.tokens[5 * i]).filter((id) => id > 0),
      );
    // Row r starts with token 5 r + 1: the middle of four quarters of twenty rows.
    expect(starts(4)).toEqual([11, 36, 61, 86]);
    expect(starts(4, 3)).toEqual(starts(4, 1));
    expect(starts(1)).toEqual([51]);
    expect(starts(20)).toEqual(starts(99));
    expect(starts(20)).toHaveLength(20);
  });
});

test("permutation: each number once, the same for the same key, evenly spread", () => {
  fc.assert(
    fc.property(fc.nat(300), fc.nat(), fc.nat(), (length, seed, epoch) => {
      const order = permutation(length, seed, epoch);
      expect(Array.from(order).sort((a, b) => a - b)).toEqual(Array.from({ length }, (_, i) => i));
      expect(permutation(length, seed, epoch)).toEqual(order);
    }),
  );
  const counts = Array.from({ length: 5 }, () => new Array<number>(5).fill(0));
  for (let seed = 0; seed < 5000; seed++)
    for (const [at, value] of permutation(5, seed).entries()) counts[at][value]++;
  // 1000 each on average, standard deviation 28.
  for (const count of counts.flat()) expect(Math.abs(count - 1000)).toBeLessThan(150);
});
