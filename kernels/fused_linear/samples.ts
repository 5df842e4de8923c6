import type { Sample, SampleInput } from "../../core/op.ts";
import { type FusedLinearAttrs, type FusedQkvAttrs, inputNames } from "./inputs.ts";

const common = { atol: 1e-4, gradcheck: false } as const;

interface LinearSize {
  rows: number;
  width: number;
  columns: number;
}

function linearSample(
  name: string,
  { rows, width, columns }: LinearSize,
  attrs: FusedLinearAttrs,
  x: Partial<SampleInput> = {},
): Sample<FusedLinearAttrs> {
  const weight = { shape: attrs.inOut ? [width, columns] : [columns, width] };
  const shapes: Record<string, SampleInput> = {
    x: { shape: [rows, width], ...x },
    weight0: weight,
    weight1: weight,
    normWeight: { shape: [width], dtype: "f32" },
    normBias: { shape: [width], dtype: "f32" },
    bias: { shape: [columns], dtype: "f32" },
    residual: { shape: [attrs.chosen ? 2 : rows, columns] },
    chosen: { shape: [2], dtype: "i32", values: [rows - 1, 0] },
  };
  return { name, inputs: inputNames(attrs).map((input) => shapes[input]), attrs, ...common };
}

export function linearSamples(): Sample<FusedLinearAttrs>[] {
  const size = (rows: number, width: number, columns: number) => ({ rows, width, columns });
  const rms = { norm: "rms", eps: 1e-5 } as const;
  const layer = { norm: "layer", eps: 1e-5 } as const;
  return [
    linearSample("swiglu", size(5, 20, 44), { ...rms, activation: "swiglu" }),
    linearSample("swiglu, one row, many columns", size(1, 64, 300), { ...rms, activation: "swiglu" }),
    linearSample("swiglu, many rows", size(19, 20, 44), { ...rms, activation: "swiglu" }),
    linearSample("residual", size(4, 12, 20), { residual: true }),
    linearSample("head", size(6, 16, 50), { ...rms, chosen: true, outDtype: "f32" }),
    linearSample("gelu, stored by k", size(21, 24, 36), {
      ...layer,
      activation: "gelu_tanh",
      bias: true,
      inOut: true,
    }),
    linearSample("bias and residual, stored by k", size(1, 8, 12), {
      bias: true,
      residual: true,
      inOut: true,
    }),
    linearSample("exact gelu", size(2, 8, 9), { bias: true, residual: true, activation: "gelu" }),
    linearSample("odd", size(3, 7, 5), { ...rms, activation: "swiglu" }),
    linearSample("odd, stored by k", size(3, 7, 5), { ...layer, bias: true, residual: true, inOut: true }),
    linearSample("one column", size(2, 4, 1), { ...layer }),
    linearSample("far from zero", size(2, 64, 8), { ...layer }, { range: [999.5, 1000.5], dtype: "f32" }),
    linearSample("no rows", size(0, 8, 8), { ...rms }),
  ];
}

function qkvSample(
  name: string,
  [heads, kvHeads, dim, width]: readonly [number, number, number, number],
  slots: number[],
  attrs: Omit<FusedQkvAttrs, "heads">,
): Sample<FusedQkvAttrs> {
  const all = { ...attrs, heads };
  const columns = attrs.separate ? heads * dim : (heads + 2 * kvHeads) * dim;
  const positions = slots.map((_, i) => (i * 37) % 101);
  const spare = [1, 2, 3];
  const weight = (n: number) => ({ shape: attrs.inOut ? [width, n] : [n, width] });
  const shapes: Record<string, SampleInput> = {
    x: { shape: [slots.length, width] },
    weight0: weight(columns),
    weight1: weight(kvHeads * dim),
    weight2: weight(kvHeads * dim),
    normWeight: { shape: [width], dtype: "f32" },
    normBias: { shape: [width], dtype: "f32" },
    bias: { shape: [columns], dtype: "f32" },
    frequencies: {
      shape: [dim / 2],
      dtype: "f32",
      values: Array.from({ length: dim / 2 }, (_, p) => Math.fround(10000 ** ((-2 * p) / dim))),
    },
    places: {
      shape: [2, slots.length + 3],
      dtype: "i32",
      values: [...positions, ...spare, ...slots, ...spare],
    },
    keyCache: { shape: [3, 4, kvHeads, dim] },
    valueCache: { shape: [3, 4, kvHeads, dim] },
  };
  return { name, inputs: inputNames(all).map((input) => shapes[input]), attrs: all, ...common };
}

export function qkvSamples(): Sample<FusedQkvAttrs>[] {
  const rms = { norm: "rms", eps: 1e-5 } as const;
  const layer = { norm: "layer", eps: 1e-5 } as const;
  const llama = { ...rms, separate: true, rotary: true };
  return [
    qkvSample("llama", [4, 2, 8, 32], [11, 0, -1, 6, 5], llama),
    qkvSample("llama, one token", [2, 2, 16, 24], [7], llama),
    qkvSample("llama, many tokens", [4, 2, 8, 32], [11, 0, -1, 6, 5, 1, 2, 3, 4, 7, 8], llama),
    qkvSample("gpt2", [3, 3, 8, 24], [3, -1, 9], { ...layer, bias: true, inOut: true }),
    qkvSample("gpt2, head of 10", [2, 2, 10, 20], [1, 2], { ...layer, bias: true, inOut: true }),
    qkvSample("head of 6", [2, 1, 6, 10], [0, -1], llama),
    qkvSample("none", [2, 1, 8, 8], [], llama),
  ];
}
