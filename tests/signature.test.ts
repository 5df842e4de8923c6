import fc from "fast-check";
import { expect, test } from "vitest";
import type { TensorMeta } from "../core/op.ts";
import { signatureOf } from "../core/webgpu/signature.ts";

const sign = (attrs: unknown, inputs: TensorMeta[] = []) => signatureOf("op", inputs, attrs, []);

test("attributes that JSON would confuse have signatures of their own", () => {
  const values = [
    0,
    -0,
    Number.NaN,
    Number.POSITIVE_INFINITY,
    null,
    undefined,
    "null",
    "0",
    [0],
    { 0: 0 },
    true,
  ];
  expect(new Set(values.map((value) => sign({ value }))).size).toBe(values.length);
});

test("attributes that text cannot tell apart are not remembered", () => {
  expect(sign({ f: () => 1 })).toBeNull();
  expect(sign({ deep: [{ data: new Float32Array(2) }] })).toBeNull();
});

test("two calls share a signature exactly when their attributes are equal", () => {
  const attrs = fc.dictionary(
    fc.string(),
    fc.oneof(fc.double(), fc.string(), fc.boolean(), fc.array(fc.oneof(fc.integer(), fc.string()))),
    { noNullPrototype: true },
  );
  const same = (a: unknown, b: unknown) => {
    try {
      expect(a).toStrictEqual(b);
      return true;
    } catch {
      return false;
    }
  };
  fc.assert(
    fc.property(attrs, attrs, (a, b) => {
      expect(sign(structuredClone(a))).toBe(sign(a));
      // Key order may differ between equal objects; then the call is prepared once more, which is harmless.
      if (!same(a, b)) expect(sign(a)).not.toBe(sign(b));
    }),
  );
});

test("layout, offset and dtype are part of a signature", () => {
  const base: TensorMeta = { shape: [2, 3], dtype: "f32", strides: [3, 1], offset: 0 };
  const others: TensorMeta[] = [
    { ...base, strides: [1, 2] },
    { ...base, offset: 64 },
    { ...base, dtype: "f16" },
    { ...base, shape: [3, 2], strides: [3, 1] },
  ];
  expect(new Set([base, ...others].map((t) => sign({}, [t]))).size).toBe(5);
});
