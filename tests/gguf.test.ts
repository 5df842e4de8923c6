import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, describe, expect, it } from "vitest";
import { KilnError } from "../core/errors.ts";
import { readModelConfig } from "../models/architectures.ts";
import { type Gguf, ggufParts, isGguf, parseGguf } from "../models/formats/gguf.ts";
import { encodeBlocks, ggufValues } from "../models/formats/gguf_blocks.ts";
import type { GgufType, GgufValue } from "../models/formats/gguf_header.ts";

const fixtures = join(import.meta.dirname, "fixtures");
const folder = mkdtempSync(join(tmpdir(), "kiln-gguf-"));
afterAll(() => {
  rmSync(folder, { recursive: true });
});

const bytesOf = (gguf: Gguf) => new Uint8Array(Buffer.concat([...ggufParts(gguf)]));
const f32 = (shape: number[], values: number[]) => ({
  type: "F32" as GgufType,
  shape,
  bytes: () => new Uint8Array(Float32Array.from(values).buffer),
});
const python = readFileSync(join(fixtures, "gguf_py.gguf"));
const blocks = JSON.parse(readFileSync(join(fixtures, "gguf_blocks.json"), "utf8"));

describe("a file of gguf-py", () => {
  const read = parseGguf(python, "gguf_py.gguf");

  it("gives a value of every type", () => {
    const value = (name: string) => read.metadata.get(`t.${name}`)?.value;
    expect(["u8", "i8", "u16", "i16", "u32", "i32"].map(value)).toEqual([
      200, -100, 60000, -30000, 4e9, -2e9,
    ]);
    expect(["f32", "bool", "string"].map(value)).toEqual([Math.fround(0.1), true, "naïve 🦙"]);
    expect(["u64", "i64", "f64"].map(value)).toEqual([2n ** 63n + 1n, -5, 0.1]);
    expect(value("texts")).toEqual(["a", "", "▁b"]);
    expect(["numbers", "floats", "flags"].map(value)).toEqual([
      [1, 2, 3],
      [0.5, 1.5],
      [true, false],
    ]);
  });

  it("gives tensors of every type", () => {
    const tensor = (name: string) => read.tensors.get(name)!;
    expect([tensor("f32").shape, [...ggufValues(tensor("f32"))]]).toEqual([
      [2, 3],
      [0, 1, 2, 3, 4, 5],
    ]);
    expect([tensor("f16").shape, [...ggufValues(tensor("f16"))]]).toEqual([
      [3, 2],
      [0, 0.25, 0.5, 0.75, 1, 1.25],
    ]);
    expect([...ggufValues(tensor("bf16"))].slice(0, 2)).toEqual([1.5, -2]);
    for (const [name, type] of [
      ["q8", "Q8_0"],
      ["q4", "Q4_0"],
    ]) {
      expect(tensor(name)).toMatchObject({ type, shape: [2, 32] });
      expect([...ggufValues(tensor(name))].slice(0, 40)).toEqual(blocks.decoded[type]);
    }
  });

  it("is written again byte for byte", () => {
    expect(Buffer.compare(bytesOf(read), python)).toBe(0);
  });
});

it.each(["Q8_0", "Q4_0"] as const)("%s blocks are those of gguf-py, in bytes and in values", (type) => {
  const bytes = encodeBlocks(type, Float32Array.from(blocks.values), "w");
  expect(Buffer.from(bytes).toString("hex")).toBe(blocks.bytes[type]);
  const values = ggufValues({ type, shape: [4, 32], bytes: () => bytes });
  expect(values.reduce((a, b) => a + b, 0)).toBeCloseTo(blocks.sums[type], 4);
});

it("a number that a type cannot hold is an error that names the tensor", () => {
  for (const [type, value] of [
    ["F16", 65520],
    ["Q8_0", 1e7],
    ["Q4_0", -1e6],
  ] as const) {
    const values = new Float32Array(32).fill(1);
    values[7] = value;
    expect(() => encodeBlocks(type, values, "blk.0.w")).toThrow(
      /^blk\.0\.w holds numbers that .*--dtype f32$/,
    );
  }
});

const scalar: fc.Arbitrary<GgufValue> = fc.oneof(
  fc.integer({ min: 0, max: 2 ** 32 - 1 }).map((value) => ({ type: "u32" as const, value })),
  fc.float({ noNaN: true }).map((value) => ({ type: "f32" as const, value })),
  fc.boolean().map((value) => ({ type: "bool" as const, value })),
  fc.string({ unit: "grapheme" }).map((value) => ({ type: "string" as const, value })),
  fc.array(fc.string()).map((value) => ({ type: "string" as const, value })),
  fc
    .array(fc.integer({ min: -(2 ** 31), max: 2 ** 31 - 1 }))
    .map((value) => ({ type: "i32" as const, value })),
);
const tensors = fc.dictionary(
  fc.string({ minLength: 1, maxLength: 15 }),
  fc.array(fc.integer({ min: 1, max: 4 }), { minLength: 1, maxLength: 3 }),
);

it("any metadata and tensors come back", () => {
  fc.assert(
    fc.property(fc.dictionary(fc.string(), scalar), tensors, (metadata, shapes) => {
      const written = bytesOf({
        metadata: new Map(Object.entries(metadata).filter(([key]) => key !== "general.alignment")),
        tensors: new Map(
          Object.entries(shapes).map(([name, shape], seed) => {
            const size = shape.reduce((a, b) => a * b, 1);
            return [
              name,
              f32(
                shape,
                Array.from({ length: size }, (_, i) => i + seed),
              ),
            ];
          }),
        ),
      });
      const read = parseGguf(written, "x");
      expect(Object.fromEntries(read.metadata)).toEqual(metadata);
      expect([...read.tensors.keys()]).toEqual(Object.keys(shapes));
      for (const [seed, [name, tensor]] of [...read.tensors].entries()) {
        expect(tensor.shape).toEqual(shapes[name]);
        expect(ggufValues(tensor).every((value, i) => value === i + seed)).toBe(true);
      }
    }),
  );
});

describe("what is no GGUF file", () => {
  it("every file that is cut off is an error in one line", () => {
    for (let length = 0; length < python.length - 31; length++) {
      const cut = python.subarray(0, length);
      let message = "";
      try {
        parseGguf(cut, "cut.gguf");
      } catch (error) {
        expect(error).toBeInstanceOf(KilnError);
        message = (error as KilnError).message;
      }
      expect(message).toMatch(/^cut\.gguf is not a valid GGUF file: [^\n]*; fetch or export it again$/);
    }
  });

  const small = { metadata: new Map(), tensors: new Map([["w", f32([2, 32], Array(64).fill(1))]]) };
  /** The file of `small` with other bytes: w's entry begins at 24. */
  const changed = (at: number, ...bytes: number[]) => {
    const file = bytesOf(small);
    file.set(bytes, at);
    return file;
  };
  const u64 = (value: bigint) => [...new Uint8Array(BigUint64Array.of(value).buffer)];

  it.each([
    ["another magic", changed(0, 0x20), /does not begin with GGUF/],
    ["a version to come", changed(4, 4), /version 4 where kiln reads 2 and 3/],
    ["more tensors than bytes", changed(8, ...u64(2n ** 60n)), /promises 1152921504606846976 tensors/],
    [
      "more values than bytes",
      changed(16, ...u64(2n ** 63n)),
      /promises 9223372036854775808 metadata values/,
    ],
    [
      "a name longer than the file",
      changed(24, ...u64(2n ** 62n)),
      /promises 4611686018427387904 bytes of text/,
    ],
    ["a name of no text", changed(32, 0xff), /text that is not UTF-8/],
    ["too many axes", changed(33, 5), /"w" has 5 axes/],
    [
      "rows of no whole blocks",
      changed(37, ...u64(33n), ...u64(2n), 8),
      /"w" has a shape \[2,33\] that Q8_0 cannot have/,
    ],
    [
      "a huge shape",
      changed(37, ...u64(2n ** 40n), ...u64(2n ** 40n)),
      /"w" has a shape \[[\d,]+\] that F32 cannot have/,
    ],
    [
      "a type that kiln lacks",
      changed(53, 12),
      /"w" has the type Q4_K, which kiln does not read.*llama-quantize/,
    ],
    ["an offset off the grid", changed(57, 1), /"w" begins at byte 1, no multiple of 32/],
    ["data behind the end", changed(57, 32), /"w" ends at byte 384, but the file has 352/],
  ])("%s", (_, file, message) => {
    expect(() => parseGguf(file, "file.gguf")).toThrow(message);
    expect(() => parseGguf(file, "file.gguf")).toThrow(KilnError);
  });

  it("two tensors in one place, a key or a tensor twice", () => {
    const both = (second: string) => {
      const tensor = f32([8], Array(8).fill(1));
      return bytesOf({
        metadata: new Map(),
        tensors: new Map([
          ["a", tensor],
          [second, tensor],
        ]),
      });
    };
    const overlapping = both("b");
    overlapping.set(u64(0n), 24 + 33 + 25);
    expect(() => parseGguf(overlapping, "x")).toThrow(/"b" overlaps the tensor before it/);
    const twice = both("b");
    twice[24 + 33 + 8] = "a".charCodeAt(0);
    expect(() => parseGguf(twice, "x")).toThrow(/"a" is there twice/);
    const keys = bytesOf({
      metadata: new Map(["a", "b"].map((key) => [key, { type: "u32", value: 1 }])),
      tensors: new Map(),
    });
    keys[24 + 17 + 8] = "a".charCodeAt(0);
    expect(() => parseGguf(keys, "x")).toThrow(/has the metadata "a" twice/);
  });

  it("is told from one by its magic, whatever it is called", async () => {
    const path = join(folder, "model.bin");
    writeFileSync(path, python);
    expect([isGguf(path), isGguf(folder), isGguf(join(folder, "none")), isGguf("no.GGUF")]).toEqual([
      true,
      false,
      false,
      true,
    ]);
    await expect(readModelConfig(join(folder, "no.gguf"))).rejects.toThrow(
      /no\.gguf does not exist; check the path/,
    );
    await expect(readModelConfig(path)).rejects.toThrow(/model\.bin: it has no token_embd\.weight/);
  });
});
