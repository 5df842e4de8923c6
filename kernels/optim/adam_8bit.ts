import type { Device } from "../../core/device.ts";
import { isFloat } from "../../core/dtype.ts";
import { defineOp, opError, type Sample } from "../../core/op.ts";
import { numel, sameShape } from "../../core/shape.ts";
import { apply, type Tensor, tensor } from "../../core/tensor.ts";
import { boundariesOf, dynamicMap, nearestCode } from "../include/blockwise.ts";
import { foldGrid } from "../include/grid.ts";
import { everyStep, hyperIndices, hyperNames, hyperOf, hyperValues, noGradient } from "./shared.ts";

const block = 256;
const maps = [dynamicMap(true), dynamicMap(false)];
const boundaries = maps.map(boundariesOf);
/** The signed map, the unsigned one, and the boundaries of each, filled up to 256. */
const table = [...maps[0], ...maps[1], ...boundaries[0], 0, ...boundaries[1], 0];

/** Shapes of a parameter's states: codes of the two means, four a word, and the largest magnitudes of their blocks. */
export function adam8bitShapes(size: number): { codes: number[]; absmax: number[] } {
  const blocks = Math.ceil(size / block);
  return { codes: [2, (blocks * block) / 4], absmax: [2, blocks] };
}

type None = Record<string, never>;

const op = defineOp<None>({
  name: "adamw_8bit",
  doc:
    "One step of AdamW (Loshchilov & Hutter 2019) whose two means are kept in 8 bits, by blocks of 256 (Dettmers et al. 2022): " +
    `(hyper, scale, table [1024], param, grad, codes u32, absmax); param, codes and absmax in place. ${everyStep}`,
  ...noGradient,
  mutates: [3, 5, 6],
  infer(inputs) {
    const [hyper, scale, codesOf, param, grad, codes, absmax] = inputs;
    const shapes = adam8bitShapes(numel(param?.shape ?? []));
    const fits =
      inputs.length === 7 &&
      numel(hyper.shape) === hyperNames.length &&
      numel(scale.shape) === 1 &&
      numel(codesOf.shape) === table.length &&
      param.dtype === "f32" &&
      isFloat(grad.dtype) &&
      sameShape(grad.shape, param.shape) &&
      codes.dtype === "u32" &&
      sameShape(codes.shape, shapes.codes) &&
      sameShape(absmax.shape, shapes.absmax);
    if (!fits)
      throw opError("adamw_8bit", inputs, "expected hyper, scale, table, param, grad, codes and absmax");
    return [];
  },
  reference([hyper, scale, codesOf, param, grad, codes, absmax]) {
    const [f, h] = [Math.fround, hyperOf(hyper.data)];
    if (scale.data[0] === 0) return;
    const [half, words] = [absmax.data.length / 2, codes.data.length / 2];
    const map = (which: number, code: number) => codesOf.data[256 * which + code];
    for (let first = 0; first < param.data.length; first += block) {
      const at = first / block;
      const size = Math.min(block, param.data.length - first);
      const codeAt = (which: number, i: number) =>
        Math.floor(codes.data[which * words + (first + i - (i % 4)) / 4] / 256 ** (i % 4)) % 256;
      const means = [new Float32Array(size), new Float32Array(size)];
      for (let i = 0; i < size; i++) {
        const [m, v] = [0, 1].map((which) =>
          f(map(which, codeAt(which, i)) * absmax.data[which * half + at]),
        );
        const g = f(grad.data[first + i] * scale.data[0]);
        means[0][i] = m + f(f(g - m) * h.one_minus_beta1);
        means[1][i] = f(v * h.beta2) + f(f(h.one_minus_beta2 * g) * g);
        const p = param.data[first + i] * (1 - h.lr * h.weight_decay);
        param.data[first + i] =
          p - ((h.lr / h.bias1) * means[0][i]) / (Math.sqrt(means[1][i]) / h.root_bias2 + h.eps);
      }
      means.forEach((values, which) => {
        const largest = values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
        absmax.data[which * half + at] = largest;
        const packed = new Uint8Array(block).fill(nearestCode(boundaries[which], 0));
        packed.set(values.map((value) => nearestCode(boundaries[which], f(value / (largest || 1)))));
        codes.data.set(new Uint32Array(packed.buffer), which * words + first / 4);
      });
    }
  },
  file: "optim/adam_8bit.wgsl",
  plan({ inputs, profile }) {
    const size = numel(inputs[3].shape);
    const blocks = Math.ceil(size / block);
    return { defines: hyperIndices, params: { size, blocks }, grid: foldGrid(blocks, profile) };
  },
  samples() {
    const hyper = { one_minus_beta1: 0.1, beta2: 0.95, one_minus_beta2: 0.05, bias1: 0.19, root_bias2: 0.3 };
    const values = hyperValues({ lr: 0.1, eps: 1e-3, weight_decay: 0.2, ...hyper });
    const of = (name: string, shape: number[], scale: number): Sample<None> => {
      const { codes, absmax } = adam8bitShapes(numel(shape));
      const finite = "codes of NaN mean nothing";
      return {
        name,
        inputs: [
          { shape: [values.length], values, finite },
          { shape: [1], values: [scale], finite },
          { shape: [table.length], dtype: "f32", values: table, finite },
          { shape, finite },
          { shape, finite },
          { shape: codes, dtype: "u32", range: [0, 2 ** 32 - 1] },
          { shape: absmax, range: [0.1, 2], finite },
        ],
        attrs: {},
      };
    };
    return [of("blocks", [3, 256], 1), of("a part of a block", [5, 61], 0.5), of("skipped", [7], 0)];
  },
});

/** The tensor that `adam8bitStep` looks codes up in. */
export const adam8bitTable = (device: Device): Tensor => tensor(table, [table.length], "f32", device);

/** One step of AdamW with 8-bit means on a parameter; states are shaped by `adam8bitShapes` and start as zeros. */
export function adam8bitStep(
  { table, param, grad, codes, absmax }: Record<"table" | "param" | "grad" | "codes" | "absmax", Tensor>,
  hyper: Tensor,
  scale: Tensor,
): void {
  apply(op, [hyper, scale, table, param, grad, codes, absmax], {});
}
