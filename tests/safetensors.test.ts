import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gunzipSync } from "node:zlib";
import fc from "fast-check";
import { afterAll, describe, expect, it } from "vitest";
import { KilnError } from "../core/errors.ts";
import {
  type HostTensor,
  hostTensor,
  parseSafetensors,
  readModelWeights,
  readSafetensors,
  serializeSafetensors,
  toFloat32,
  toInt32,
  withModelWeights,
  writeSafetensors,
} from "../models/formats/safetensors.ts";
import { byteLength, DTYPES, headerLength, parseHeader } from "../models/formats/safetensors_header.ts";

const golden = new URL("./fixtures/golden/", import.meta.url).pathname;
const formats = new URL("../../shared/data/models/formats/safetensors/", import.meta.url).pathname;
const folder = mkdtempSync(join(tmpdir(), "kiln-safetensors-"));
afterAll(() => rmSync(folder, { recursive: true }));

/** A file from any header text, so that tests can lie in it. */
function forge(header: string, data = new Uint8Array(0)): Uint8Array {
  const text = new TextEncoder().encode(header);
  const bytes = new Uint8Array(8 + text.length + data.length);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(text.length), true);
  bytes.set(text, 8);
  bytes.set(data, 8 + text.length);
  return bytes;
}

const small = serializeSafetensors({
  "layer.weight": hostTensor("F32", [2, 3], Float32Array.of(1, 2, 3, 4, 5, 6)),
  "layer.bias": hostTensor("F16", [3], Uint16Array.of(0x3c00, 0xc000, 0x0001)),
  ids: hostTensor("I64", [2], BigInt64Array.of(7n, -7n)),
  empty: hostTensor("F32", [0, 5], new Float32Array(0)),
  mask: hostTensor("BOOL", [2], Uint8Array.of(1, 0)),
});

describe("reading", () => {
  it.each(["models/llama/model", "models/llama/expected", "curves/llama/batches", "optim"])(
    "reads %s and writes it back byte for byte as the reference writer does",
    async (name) => {
      const path = join(golden, `${name}.safetensors`);
      const original = readFileSync(path);
      const header = original.subarray(8, 8 + headerLength(original, original.length, name));
      const { metadata, tensors } = parseHeader(header, original.length, name);
      expect(tensors.size).toBeGreaterThan(3);
      const written = serializeSafetensors(await readSafetensors(path), metadata);
      expect(Buffer.compare(written, original)).toBe(0);
    },
  );

  it("reads the three dtypes of the op fixtures", () => {
    const tensors = parseSafetensors(gunzipSync(readFileSync(join(golden, "ops.safetensors.gz"))), "ops");
    expect(new Set([...tensors.values()].map((t) => t.dtype))).toEqual(new Set(["F32", "I64", "U8"]));
    for (const tensor of tensors.values()) {
      expect(toFloat32(tensor).length).toBe(tensor.shape.reduce((a, b) => a * b, 1));
    }
  });

  it.skipIf(!existsSync(formats))(
    "reads files of another implementation (skipped: no ../shared/data)",
    async () => {
      const f64 = await readSafetensors(join(formats, "tensor-2d-float64.safetensors"));
      const f32 = await readSafetensors(join(formats, "tensor-4d-float32.safetensors"));
      const i32 = await readSafetensors(join(formats, "tensor-1d-int32.safetensors"));
      expect([...f64.values()][0]).toMatchObject({ dtype: "F64" });
      expect([...f32.values()][0].shape.length).toBe(4);
      expect(toInt32([...i32.values()][0]).length).toBeGreaterThan(0);
    },
  );

  it("decodes every dtype", () => {
    const f16 = hostTensor("F16", [5], Uint16Array.of(0x3c00, 0xc000, 0x0001, 0x7bff, 0xfc00));
    expect([...toFloat32(f16)]).toEqual([1, -2, 2 ** -24, 65504, -Infinity]);
    const bf16 = hostTensor("BF16", [3], Uint16Array.of(0x3f80, 0xc040, 0x7f80));
    expect([...toFloat32(bf16)]).toEqual([1, -3, Infinity]);
    expect([...toFloat32(hostTensor("F64", [1], Float64Array.of(0.1)))]).toEqual([Math.fround(0.1)]);
    expect([...toInt32(hostTensor("I64", [2], BigInt64Array.of(-5n, 2147483647n)))]).toEqual([
      -5, 2147483647,
    ]);
    expect([...toInt32(hostTensor("I8", [1], Int8Array.of(-3)))]).toEqual([-3]);
    expect([...toInt32(hostTensor("I16", [1], Int16Array.of(-300)))]).toEqual([-300]);
    expect([...toInt32(hostTensor("U16", [1], Uint16Array.of(65535)))]).toEqual([65535]);
    expect([...toInt32(hostTensor("BOOL", [2], Uint8Array.of(9, 0)))]).toEqual([1, 0]);
    expect([...toFloat32(hostTensor("U32", [1], Uint32Array.of(2 ** 31)))]).toEqual([2 ** 31]);
    expect(() => toInt32(hostTensor("I64", [1], BigInt64Array.of(2147483648n)))).toThrow(
      "does not fit into int32",
    );
    expect(() => toInt32(hostTensor("U32", [1], Uint32Array.of(2 ** 31)))).toThrow("does not fit into int32");
    expect(() => toInt32(bf16)).toThrow("holds no integers");
  });

  it("copies tensors that are not aligned in their buffer", () => {
    const header =
      '{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"F32","shape":[1],"data_offsets":[1,5]}}';
    const data = Uint8Array.of(9, ...new Uint8Array(Float32Array.of(1.5).buffer));
    expect([...toFloat32(parseSafetensors(forge(header, data), "x").get("b")!)]).toEqual([1.5]);
  });

  it("says that a file became shorter while its tensors were read", async () => {
    const directory = join(folder, "shorter");
    const file = join(directory, "model.safetensors");
    await writeSafetensors(file, { a: hostTensor("U8", [1000], new Uint8Array(1000)) });
    const reading = withModelWeights(directory, (weights) => {
      truncateSync(file, 500);
      return weights.get("a")!.bytes;
    });
    await expect(reading).rejects.toThrow("it became shorter while it was being read");
  });

  it("reads sharded weights by their index and refuses paths that leave the folder", async () => {
    const directory = join(folder, "sharded");
    await writeSafetensors(join(directory, "model-1.safetensors"), {
      a: hostTensor("U8", [1], Uint8Array.of(1)),
    });
    await writeSafetensors(join(directory, "model-2.safetensors"), {
      b: hostTensor("U8", [1], Uint8Array.of(2)),
    });
    const index = join(directory, "model.safetensors.index.json");
    const save = (weight_map: unknown) => writeFileSync(index, JSON.stringify({ weight_map }));
    save({ a: "model-1.safetensors", b: "model-2.safetensors" });
    const first = (weights: ReadonlyMap<string, HostTensor>) =>
      [...weights].map(([name, t]) => [name, t.dtype, t.shape, t.bytes[0]]);
    const expected = [
      ["a", "U8", [1], 1],
      ["b", "U8", [1], 2],
    ];
    expect(first(await readModelWeights(directory))).toEqual(expected);
    expect(await withModelWeights(directory, first)).toEqual(expected);
    save({ a: "../sharded/model-1.safetensors" });
    await expect(readModelWeights(directory)).rejects.toThrow("not a file beside it");
    save({ c: "model-1.safetensors" });
    await expect(readModelWeights(directory)).rejects.toThrow('has no tensor "c"');
    save({ a: "model-3.safetensors" });
    await expect(readModelWeights(directory)).rejects.toThrow("model-3.safetensors does not exist");
    save([]);
    await expect(readModelWeights(directory)).rejects.toThrow('no "weight_map"');
    mkdirSync(join(folder, "nothing"));
    await expect(readModelWeights(join(folder, "nothing"))).rejects.toThrow(
      "has neither model.safetensors nor",
    );
    await expect(readModelWeights(join(folder, "absent"))).rejects.toThrow("absent does not exist");
  });
});

describe("writing", () => {
  it("does not depend on the order of the entries, and aligns header and data", () => {
    const a = hostTensor("F32", [1], Float32Array.of(1));
    const b = hostTensor("U8", [3], Uint8Array.of(1, 2, 3));
    const c = hostTensor("I64", [1], BigInt64Array.of(5n));
    const one = serializeSafetensors({ a, b, c });
    expect(
      serializeSafetensors(
        new Map([
          ["c", c],
          ["b", b],
          ["a", a],
        ]),
      ),
    ).toEqual(one);
    expect(new DataView(one.buffer).getBigUint64(0, true) % 8n).toBe(0n);
    expect(new TextDecoder().decode(one.subarray(8))).toMatch(/^\{"__metadata__":\{"format":"pt"\},"c":/);
  });

  it("refuses tensors whose bytes do not fit their shape", () => {
    const wrong: HostTensor = { dtype: "F32", shape: [3], bytes: new Uint8Array(8) };
    expect(() => serializeSafetensors({ wrong })).toThrow('tensor "wrong" has 8 bytes');
    expect(() => hostTensor("F32", [3], new Float32Array(2))).toThrow(
      "8 bytes do not make a F32 tensor of shape [3]",
    );
  });

  it("returns what was written, for any names, shapes and dtypes", async () => {
    const tensor = fc
      .tuple(
        fc.constantFrom(...DTYPES),
        fc.array(fc.nat(4), { maxLength: 3 }),
        fc.infiniteStream(fc.nat(255)),
      )
      .map(([dtype, shape, stream]): HostTensor => {
        const length = byteLength(dtype, shape)!;
        return { dtype, shape, bytes: Uint8Array.from({ length }, () => stream.next().value!) };
      });
    const name = fc.string({ unit: "grapheme" }).filter((text) => text !== "__metadata__");
    const property = fc.property(fc.array(fc.tuple(name, tensor), { maxLength: 6 }), (list) => {
      const entries = new Map([
        ...list,
        ["__proto__", list[0]?.[1] ?? hostTensor("U8", [0], new Uint8Array(0))],
      ]);
      const read = parseSafetensors(serializeSafetensors(entries), "x");
      expect(new Map([...read].sort())).toEqual(new Map([...entries].sort()));
    });
    fc.assert(property, { numRuns: 300 });
  });
});

describe("malformed files", () => {
  const entry = (fields: string) => `{"w":{${fields}}}`;
  const four = new Uint8Array(4);
  const cases: [string, Uint8Array, string][] = [
    ["an empty file", new Uint8Array(0), "fewer than the 8"],
    ["a header of length 0", forge(""), "header length is 0"],
    ["a header over 100 MB", Uint8Array.of(0, 0, 0, 0x10, 0, 0, 0, 0, 0x7b), "over the limit"],
    ["a negative length", new Uint8Array(16).fill(0xff), "over the limit"],
    ["a header longer than the file", Uint8Array.of(9, 0, 0, 0, 0, 0, 0, 0, 0x7b), "only 1 follow"],
    ["another first character", forge(" {}"), "does not start with {"],
    ["a list", forge("[]"), "does not start with {"],
    ["bytes that are not UTF-8", forge("{}").fill(0xff, 9, 10), "not UTF-8"],
    ["an unclosed header", forge('{"w"'), "not valid JSON"],
    ["text after the header", forge("{}x"), "not valid JSON"],
    ["an unclosed string", forge('{"w'), "not valid JSON"],
    ["a bad escape", forge('{"\\x":{}}'), "not valid JSON"],
    ["a name of 4 million escapes", forge(`{"${"\\n".repeat(4_000_000)}":{}}`), "not valid JSON"],
    ["nested entries", forge(`{"w":${'{"a":'.repeat(1000)}{}${"}".repeat(1000)}}`), 'unknown field "a"'],
    ["an entry that is none", forge('{"w":null}'), 'tensor "w" is not an object'],
    ["an exponent", forge(entry('"dtype":"U8","shape":[4e0],"data_offsets":[0,4]'), four), "whole number"],
    ["equal keys, one escaped", forge('{"__metadata__":{"a":"","\\u0061":""}}'), 'key "a" twice'],
    ["a missing field", forge(entry('"dtype":"F32"')), 'tensor "w" lacks'],
    ["an unknown field", forge(entry('"dtype":"F32","x":[]')), 'tensor "w" has the unknown field "x"'],
    ["a repeated field", forge(entry('"dtype":"F32","dtype":"U8"')), 'key "dtype" twice'],
    [
      "three offsets",
      forge(entry('"dtype":"F32","shape":[1],"data_offsets":[0,4,4]'), four),
      "two data_offsets",
    ],
    [
      "an unknown dtype",
      forge(entry('"dtype":"F8_E4M3","shape":[4],"data_offsets":[0,4]'), four),
      'dtype "F8_E4M3"',
    ],
    [
      "an inherited dtype",
      forge(entry('"dtype":"toString","shape":[4],"data_offsets":[0,4]'), four),
      "has dtype",
    ],
    ["a wrong size", forge(entry('"dtype":"F32","shape":[2],"data_offsets":[0,4]'), four), "F32 [2] needs 8"],
    ["swapped offsets", forge(entry('"dtype":"U8","shape":[4],"data_offsets":[4,0]'), four), "wrong order"],
    ["an end outside", forge(entry('"dtype":"F32","shape":[2],"data_offsets":[0,8]'), four), "holds only 4"],
    [
      "a negative number",
      forge(entry('"dtype":"U8","shape":[-4],"data_offsets":[0,4]'), four),
      "whole number",
    ],
    ["a fraction", forge(entry('"dtype":"U8","shape":[4.0],"data_offsets":[0,4]'), four), "whole number"],
    [
      "a number over 2^53",
      forge(entry('"dtype":"U8","shape":[9007199254740992],"data_offsets":[0,4]')),
      "2^53",
    ],
    [
      "an overflowing product",
      forge(entry('"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,4]'), four),
      "overflows",
    ],
    [
      "1000 axes",
      forge(entry(`"dtype":"U8","shape":[${Array(1000).fill(1)}],"data_offsets":[0,1]`)),
      "more than 64",
    ],
    ["a depth bomb", forge(`{"w":${"[".repeat(200_000)}`), "not valid JSON"],
    [
      "bytes after the data",
      forge(entry('"dtype":"U8","shape":[1],"data_offsets":[0,1]'), four),
      "3 bytes follow",
    ],
    ["a leading gap", forge(entry('"dtype":"U8","shape":[3],"data_offsets":[1,4]'), four), "gap of 1 bytes"],
    [
      "overlapping tensors",
      forge(
        '{"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},"b":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}}',
        four,
      ),
      'tensor "b" overlaps',
    ],
    [
      "the same name twice",
      forge(
        '{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"a":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}}',
        four,
      ),
      'key "a" twice',
    ],
    ["metadata that is not text", forge('{"__metadata__":{"a":1}}'), "__metadata__"],
  ];
  it.each(cases)("F22: %s is refused in one line that names the file", async (label, bytes, problem) => {
    const path = join(folder, `${label}.safetensors`);
    writeFileSync(path, bytes);
    for (const attempt of [async () => parseSafetensors(bytes, path), () => readSafetensors(path)]) {
      const error = await attempt().then(
        () => null,
        (thrown) => thrown,
      );
      expect(error).toBeInstanceOf(KilnError);
      expect(error.code).toBe("safetensors_invalid");
      expect(error.message).toContain(problem);
      expect(error.message).toContain(path);
      expect(error.message).not.toMatch(/\n/);
    }
  });

  it("F22: truncation at every byte is refused", () => {
    for (let length = 0; length < small.length; length++) {
      expect(() => parseSafetensors(small.subarray(0, length), "cut")).toThrow(KilnError);
    }
  });

  it("F22: 100 000 tensors are read or refused", { timeout: 60_000 }, () => {
    const many = Array.from(
      { length: 100_000 },
      (_, i) => `"t${i}":{"dtype":"U8","shape":[1],"data_offsets":[${i},${i + 1}]}`,
    );
    const read = parseSafetensors(forge(`{${many}}`, new Uint8Array(100_000)), "many");
    expect(read.size).toBe(100_000);
    expect(() => parseSafetensors(forge(`{${many}}`, new Uint8Array(99_999)), "many")).toThrow(
      'tensor "t99999"',
    );
  });

  it("F22: any mutant is refused with a KilnError or is itself a valid file", { timeout: 60_000 }, () => {
    // Bytes around the file hold a canary: a tensor must never be a view of them.
    const room = 64;
    const interesting = fc.constantFrom(
      0,
      1,
      0x20,
      0x22,
      0x2c,
      0x2d,
      0x30,
      0x39,
      0x5b,
      0x5d,
      0x7b,
      0x7d,
      0x80,
      0xff,
    );
    const edit = fc.record({
      at: fc.nat(small.length - 1),
      remove: fc.nat(4),
      insert: fc.array(fc.oneof(interesting, fc.nat(255)), { maxLength: 4 }),
    });
    let refused = 0;
    const property = fc.property(fc.array(edit, { minLength: 1, maxLength: 4 }), (edits) => {
      const mutant = [...small];
      for (const { at, remove, insert } of edits) mutant.splice(at % mutant.length, remove, ...insert);
      const arena = new Uint8Array(mutant.length + 2 * room).fill(0xee);
      arena.set(mutant, room);
      const bytes = arena.subarray(room, room + mutant.length);
      let tensors: Map<string, HostTensor>;
      try {
        tensors = parseSafetensors(bytes, "mutant");
      } catch (error) {
        expect(error).toBeInstanceOf(KilnError);
        refused++;
        return;
      }
      for (const { dtype, shape, bytes: view } of tensors.values()) {
        expect(view.length).toBe(byteLength(dtype, shape));
        if (view.length === 0) continue;
        expect(view.byteOffset).toBeGreaterThanOrEqual(room + 8);
        expect(view.byteOffset + view.length).toBeLessThanOrEqual(room + mutant.length);
      }
      expect(parseSafetensors(serializeSafetensors(tensors), "again").size).toBe(tensors.size);
    });
    fc.assert(property, { numRuns: 10_000 });
    expect(refused).toBeGreaterThan(2_500);
  });
});
