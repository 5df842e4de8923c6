import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { setDevice } from "../core/device.ts";
import type { DType } from "../core/dtype.ts";
import type { Lowering } from "../core/op.ts";
import { contiguousStrides } from "../core/shape.ts";
import { type Tensor, tensor, zeros } from "../core/tensor.ts";
import type { WebGpuDevice } from "../core/webgpu/device.ts";
import { attention, openDevice, pagedAttention, pagedKvWrite } from "../kernels/index.ts";
import { pagedAttentionOp } from "../kernels/paged_attention/op.ts";
import { generator } from "./support/ops_harness.ts";

let gpu: WebGpuDevice;
beforeAll(async () => {
  gpu = await openDevice();
  gpu.poison = true;
});
afterAll(() => setDevice(null));

const [heads, kvHeads, dim, blockSize, maxBlocks] = [4, 2, 8, 16, 24];
const next = generator("paged");
const random = (n: number) => Float32Array.from({ length: n }, () => next() * 4 - 2);

interface Sequence {
  length: number;
  query: Float32Array;
  key: Float32Array;
  value: Float32Array;
}
const sequence = (length: number): Sequence => ({
  length,
  query: random(length * heads * dim),
  key: random(length * kvHeads * dim),
  value: random(length * kvHeads * dim),
});

/** A cache whose blocks are dealt out in a scrambled order, and the steps of a server over it. */
class Server {
  readonly blocks: number;
  readonly keys: Tensor;
  readonly values: Tensor;
  readonly table: Tensor;
  readonly tableValues: number[];
  readonly sequences: readonly Sequence[];

  constructor(sequences: readonly Sequence[], stride: number) {
    this.sequences = sequences;
    this.blocks = sequences.length * maxBlocks + 1;
    this.keys = zeros([this.blocks, blockSize, kvHeads, dim]);
    this.values = zeros([this.blocks, blockSize, kvHeads, dim]);
    const count = sequences.length * maxBlocks;
    this.tableValues = Array.from({ length: count }, (_, i) => 1 + ((i * stride) % count));
    this.table = tensor(this.tableValues, [sequences.length, maxBlocks], "i32");
  }

  /** One step of (sequence, position) tokens in any mixture; the result of each. */
  async step(tokens: readonly (readonly [number, number])[]): Promise<Float32Array[]> {
    const rows = (pick: (s: Sequence) => Float32Array, width: number) =>
      tensor(
        tokens.flatMap(([s, p]) => Array.from(pick(this.sequences[s]).subarray(p * width, (p + 1) * width))),
        [tokens.length, width / dim, dim],
      );
    const list = (values: number[]) => tensor(values, [tokens.length], "i32");
    const slots = tokens.map(([s, p]) => {
      const block = this.tableValues[s * maxBlocks + Math.floor(p / blockSize)];
      return block * blockSize + (p % blockSize);
    });
    pagedKvWrite(
      this.keys,
      this.values,
      rows((s) => s.key, kvHeads * dim),
      rows((s) => s.value, kvHeads * dim),
      list(slots),
    );
    const query = rows((s) => s.query, heads * dim);
    const out = pagedAttention(
      query,
      this.keys,
      this.values,
      this.table,
      list(tokens.map(([s]) => s)),
      list(tokens.map(([, p]) => p)),
    );
    const values = (await out.data()) as Float32Array;
    return tokens.map((_, i) => values.slice(i * heads * dim, (i + 1) * heads * dim));
  }

  /** Steps of `width` tokens of one sequence. */
  async run(s: number, width: number): Promise<Float32Array[]> {
    const all: Float32Array[] = [];
    const { length } = this.sequences[s];
    for (let p = 0; p < length; p += width) {
      const count = Math.min(width, length - p);
      all.push(...(await this.step(Array.from({ length: count }, (_, i) => [s, p + i] as const))));
    }
    return all;
  }
}

describe.each(["keys", "chunks"])("paged attention by %s", (variant) => {
  beforeAll(() => {
    gpu.forcedVariant.set("paged_attention", variant);
  });
  afterAll(() => gpu.forcedVariant.clear());

  it("gives a token the same bits by prefill, by chunks, by decodes and in a mixed batch", async () => {
    const sequences = [sequence(300), sequence(37), sequence(130)];
    const whole = await new Server(sequences, 1).run(0, 300);
    expect(await new Server(sequences, 5).run(0, 64)).toEqual(whole);
    // Decodes one at a time, past the first chunk of 256.
    const decoding = new Server(sequences, 7);
    const first = await decoding.step(Array.from({ length: 250 }, (_, p) => [0, p] as const));
    expect(first).toEqual(whole.slice(0, 250));
    for (let p = 250; p < 262; p++) expect(await decoding.step([[0, p]])).toEqual([whole[p]]);
    // The same token beside a prefill of another sequence and decodes of a third.
    const mixed = new Server(sequences, 11);
    await mixed.run(0, 261);
    await mixed.step(Array.from({ length: 129 }, (_, p) => [2, p] as const));
    const batch = await mixed.step([
      ...Array.from({ length: 37 }, (_, p) => [1, p] as const),
      [0, 261],
      [2, 129],
    ]);
    expect(batch[37]).toEqual(whole[261]);
    expect(batch.slice(0, 37)).toEqual(await new Server(sequences, 1).run(1, 1));
  });

  it("does not depend on how wide the block table is", async () => {
    const one = sequence(20);
    const server = new Server([one], 1);
    const whole = await server.run(0, 20);
    const narrow = tensor(server.tableValues.slice(0, 2), [1, 2], "i32");
    const query = tensor(one.query, [20, heads, dim]);
    const lists = [new Array(20).fill(0), Array.from({ length: 20 }, (_, p) => p)].map((l) =>
      tensor(l, [20], "i32"),
    );
    const out = pagedAttention(query, server.keys, server.values, narrow, lists[0], lists[1]);
    expect(Array.from(await out.data())).toEqual(whole.flatMap((row) => Array.from(row)));
  });

  it.runIf(variant === "chunks")(
    "takes a prompt in slices where a long context's sums pass the adapter's limit, with the same bits",
    async () => {
      const one = sequence(40);
      const whole = await new Server([one], 1).run(0, 40);
      const { maxBindingBytes, maxGridExtent } = gpu.profile;
      const token = 4 * heads * 2 * dim; // bytes of a token's sums: two chunks of 256 positions
      for (const limits of [
        { maxBindingBytes: 2 * 7 * token },
        { maxBindingBytes: token },
        { maxGridExtent: 9 },
      ]) {
        Object.assign(gpu.profile, limits);
        gpu.forgetLowered();
        const sliced = await new Server([one], 1).run(0, 40);
        Object.assign(gpu.profile, { maxBindingBytes, maxGridExtent });
        gpu.forgetLowered();
        expect(sliced).toEqual(whole);
      }
    },
  );

  it.runIf(variant === "chunks")(
    "stays within the limits of an adapter with 128 heads and 131072 positions",
    () => {
      const meta = (shape: number[], dtype: DType = "f32") => {
        return { shape, dtype, strides: contiguousStrides(shape), offset: 0 };
      };
      const plan = (tokens: number, [h, kv, d]: readonly [number, number, number], positions: number) => {
        const cache = meta([64, 16, kv, d]);
        const lists = [meta([tokens], "i32"), meta([tokens], "i32")];
        const inputs = [meta([tokens, h, d]), cache, cache, meta([4, positions / 16], "i32"), ...lists];
        const call = { profile: gpu.profile, inputs, outputs: [meta([tokens, h, d])], attrs: { scale: 1 } };
        return pagedAttentionOp.variants.find(({ name }) => name === variant)!.plan(call) as Lowering;
      };
      for (const size of [
        [128, 8, 128],
        [32, 8, 128],
        [64, 64, 256],
      ] as const) {
        const { passes, temps } = plan(256, size, 131072);
        for (const { grid } of passes) for (const extent of grid) expect(extent).toBeLessThanOrEqual(65535);
        for (const { length } of temps!)
          expect(4 * length).toBeLessThanOrEqual(gpu.profile.maxBindingBytes / 2);
      }
      expect(plan(256, [12, 12, 64], 2048).passes.length).toBe(2);
      expect(plan(256, [12, 12, 64], 256).passes.length).toBe(1);
    },
  );

  it("agrees with attention over the same sequence in one piece", async () => {
    const one = sequence(290);
    const paged = (await new Server([one], 1).run(0, 290)).flatMap((row) => Array.from(row));
    const lay = (values: Float32Array, count: number) =>
      tensor(values, [1, 290, count, dim]).asStrided([1, count, 290, dim], [0, dim, count * dim, 1], 0);
    const out = attention(lay(one.query, heads), lay(one.key, kvHeads), lay(one.value, kvHeads), {
      causal: true,
    });
    const whole = await out.asStrided([1, 290, heads, dim], [0, heads * dim, dim, 1], 0).data();
    const worst = paged.reduce((w, x, i) => Math.max(w, Math.abs(x - whole[i])), 0);
    expect(worst).toBeLessThan(1e-5);
  });

  it("never looks at slots that a sequence has not written", async () => {
    const one = sequence(21);
    const server = new Server([one], 1);
    const clean = await server.run(0, 21);
    server.keys.write(new Float32Array(server.keys.size).fill(Number.NaN));
    server.values.write(new Float32Array(server.values.size).fill(Number.NaN));
    expect(await server.run(0, 21)).toEqual(clean);
  });

  it("keeps NaN and infinity of what a token sees, and only there", async () => {
    for (const [bad, where] of [
      [Number.NaN, "key"],
      [Number.NaN, "value"],
      [Number.POSITIVE_INFINITY, "key"],
    ] as const) {
      const one = sequence(21);
      const clean = await new Server([one], 1).run(0, 21);
      one[where][(9 * kvHeads + 1) * dim + 2] = bad;
      const rows = await new Server([one], 1).run(0, 21);
      expect(rows.slice(0, 9)).toEqual(clean.slice(0, 9));
      // Heads 2 and 3 read the second key head. An infinite score is NaN where the query's sign makes it positive.
      for (let p = 9; p < 21; p++) {
        expect(rows[p].slice(0, 2 * dim)).toEqual(clean[p].slice(0, 2 * dim));
        for (const head of [2, 3]) {
          const positive = one.query[(p * heads + head) * dim + 2] > 0;
          if (Number.isNaN(bad) || positive) {
            const first = rows[p][head * dim + 2];
            expect(first, `${where} ${bad}, token ${p}, head ${head}`).toBeNaN();
          }
        }
      }
    }
  });

  it("names what does not fit", () => {
    const cache = zeros([2, 4, 2, 8]);
    const i32 = (shape: number[]) =>
      tensor(new Array(shape.reduce((a, b) => a * b, 1)).fill(0), shape, "i32");
    const call = (query: Tensor) => pagedAttention(query, cache, cache, i32([1, 2]), i32([3]), i32([3]));
    expect(() => call(zeros([3, 3, 8]))).toThrow(/paged_attention.*KV dividing H/);
    expect(() => call(zeros([2, 2, 8]))).toThrow(/positions \[N\]/);
    expect(() => pagedKvWrite(cache, cache, zeros([1, 2, 4]), zeros([1, 2, 4]), i32([1]))).toThrow(
      /paged_kv_write/,
    );
  });
});
