import { grads } from "../../core/autograd.ts";
import { compile } from "../../core/compile.ts";
import { dispose, persist, scope } from "../../core/scope.ts";
import { noGrad } from "../../core/tape.ts";
import { type Tensor, tensor } from "../../core/tensor.ts";
import * as k from "../../kernels/index.ts";
import { AdamW } from "../../train/optimizers/index.ts";
import { madeUpTokens } from "../data.ts";
import { bytesOf, type GpuRow, type Precision, precisions, type Row } from "./row.ts";
import type { GpuSizes } from "./sizes.ts";

/** Numbers in [-1, 1) that the device makes itself: the host would need seconds for the largest. */
export function deviceRandom(shape: readonly number[], seed: number, dtype: Precision = "f32"): Tensor {
  return noGrad(() =>
    scope(() => {
      const unit = k.randomUniform(shape, tensor([seed, 0, 0, 0], [4], "u32"), 0, dtype);
      return persist(k.add(k.add(unit, unit), tensor([-1], [1], dtype)));
    }),
  );
}

/** Runs a function of some tensors without keeping its results; with `differentiate`, of tensors that want gradients. */
function opRow(
  shapes: readonly (readonly number[])[],
  dtype: Precision,
  call: (...inputs: Tensor[]) => unknown,
  differentiate = false,
): Row["prepare"] {
  return (device) => {
    const inputs = shapes.map((shape, i) => deviceRandom(shape, i + 1, dtype));
    if (differentiate) for (const input of inputs) input.requireGrad();
    const once = () => scope(() => void (differentiate ? call(...inputs) : noGrad(() => call(...inputs))));
    return {
      run: async (times) => {
        for (let i = 0; i < times; i++) once();
        await device.sync();
      },
      dispose: () => dispose(inputs),
    };
  };
}

/** What a row of one kernel has besides its name, which is the ruler's task and a precision. */
type KernelRow = Pick<GpuRow, "task" | "role" | "flops" | "bytes" | "unit" | "prepare"> & Partial<GpuRow>;

const kernelRow = ({ precision = "f32", ...row }: KernelRow): GpuRow => ({
  name: `${row.task} ${precision}`,
  precision,
  kernel: true,
  ...row,
});

type Extents = readonly [m: number, k: number, n: number];

/** A product [m, k] x [k, n]. One operand may be transposed in memory, as b is in a Linear's forward pass. */
export function productRow(
  role: string,
  [m, inner, n]: Extents,
  precision: Precision = "f32",
  transposed?: "a" | "b",
): GpuRow {
  const suffix = transposed ? ` ${transposed === "a" ? "A^T B" : "A B^T"}` : "";
  return kernelRow({
    // The ruler has no lines with transposed operands.
    task: `matmul_${m}x${inner}x${n}${suffix}`,
    role: `${role} ${precision}`,
    precision,
    flops: 2 * m * inner * n,
    bytes: bytesOf[precision] * (m * inner + inner * n + m * n),
    unit: "GFLOP/s",
    ...(!transposed && precision === "f32" && { peer: { op: "matmul", sizes: [m, inner, n] } }),
    prepare: opRow(
      [transposed === "a" ? [inner, m] : [m, inner], transposed === "b" ? [n, inner] : [inner, n]],
      precision,
      (a, b) => k.matmul(transposed === "a" ? k.transpose(a) : a, transposed === "b" ? k.transpose(b) : b),
    ),
  });
}

/** What a Linear of a transformer computes: forward, gradient of its weight, gradient of its input. */
export function transformerRows({ tokens, width, inner }: GpuSizes): GpuRow[] {
  return precisions.flatMap((precision) => [
    productRow("gemm transformer", [tokens, width, inner], precision),
    productRow("gemm transformer A^T B", [width, tokens, inner], precision, "a"),
    productRow("gemm transformer A B^T", [tokens, inner, width], precision, "b"),
  ]);
}

export function otherProducts(sizes: GpuSizes): GpuRow[] {
  const { tokens, width, inner, vocabulary, fewTokens, vector } = sizes;
  const shapes: [string, Extents][] = [
    ...sizes.squares.slice(0, -1).map((n): [string, Extents] => [`gemm ${n}`, [n, n, n]]),
    ["gemm head", [tokens, width, vocabulary]],
    ["gemm few", [fewTokens, width, inner]],
    ["gemm vector", [1, vector, vector]],
  ];
  return shapes.flatMap(([role, extents]) => precisions.map((p) => productRow(role, extents, p)));
}

/** Kernels that pass over memory, by name: the peers' op, further inputs, the call, passes over a [rows, width] tensor. */
const passes: Record<string, [string | null, "width" | "all" | null, (...t: Tensor[]) => Tensor, number]> = {
  softmax: ["softmax", null, (x) => k.softmax(x), 2],
  layernorm: ["layer_norm", "width", (x, w, b) => k.layerNorm(x, w, b), 2],
  rms_norm: [null, "width", (x, w) => k.rmsNorm(x, w), 2],
  gelu: ["gelu", null, (x) => k.geluTanh(x), 2],
  // The ruler's x + x reads one tensor (the ruler counts two); `add_two` is x + y, which reads two.
  add: [null, null, (x) => k.add(x, x), 2],
  add_two: ["add", "all", (x, y) => k.add(x, y), 3],
};

export function memoryRow(
  name: keyof typeof passes,
  [rows, width]: readonly [number, number],
  size = "",
): GpuRow {
  const [op, further, call, count] = passes[name];
  const shapes = [[rows, width], ...Array(call.length - 1).fill(further === "all" ? [rows, width] : [width])];
  return kernelRow({
    task: `rows_${name}_${rows}x${width}`,
    role: `rows ${name} ${size}`,
    flops: rows * width,
    bytes: 4 * count * rows * width,
    unit: "GB/s",
    ...(op !== null && { peer: { op, sizes: [rows, width] } }),
    prepare: opRow(shapes, "f32", call),
  });
}

/** Causal attention, forward and with its gradient; the half of the scores that the mask hides is not counted. */
export function attentionRows(shape: GpuSizes["attention"], precision: Precision = "f32"): GpuRow[] {
  const [batch, heads, length, dim] = shape;
  const size = `${batch}x${heads}x${length}x${dim}`;
  const flops = 2 * batch * heads * length * length * dim;
  const bytes = bytesOf[precision] * batch * heads * length * dim;
  const call = (q: Tensor, key: Tensor, value: Tensor) => k.attention(q, key, value, { causal: true });
  const both = (...[q, key, value]: Tensor[]) => {
    const y = call(q, key, value);
    return grads(y, [q, key, value], { cotangents: [y.detach()] });
  };
  const common = { precision, unit: "GFLOP/s" } as const;
  return [
    kernelRow({
      ...common,
      task: `attention_fwd_${size}`,
      role: `attention forward ${precision}`,
      flops,
      bytes: 4 * bytes,
      ...(precision === "f32" && { peer: { op: "attention", sizes: [...shape] } }),
      prepare: opRow([shape, shape, shape], precision, call),
    }),
    kernelRow({
      ...common,
      task: `attention_fwdbwd_${size}`,
      role: `attention both ${precision}`,
      // Backward: five products of the size of the forward's two.
      flops: 3.5 * flops,
      bytes: 12 * bytes,
      prepare: opRow([shape, shape, shape], precision, both, true),
    }),
  ];
}

export function crossEntropyRow({ tokens, vocabulary }: GpuSizes): GpuRow {
  return kernelRow({
    task: `cross_entropy_fwdbwd_${tokens}x${vocabulary}`,
    role: "cross entropy",
    flops: 8 * tokens * vocabulary,
    bytes: 12 * tokens * vocabulary,
    unit: "GB/s",
    prepare(device) {
      const logits = deviceRandom([tokens, vocabulary], 1).requireGrad();
      const target = persist(tensor(madeUpTokens(tokens, vocabulary).tokens, [tokens], "i32"));
      return {
        run: async (times) => {
          for (let i = 0; i < times; i++) scope(() => void grads(k.crossEntropy(logits, target), [logits]));
          await device.sync();
        },
        dispose: () => dispose([logits, target]),
      };
    },
  });
}

/** The ruler's parameters: so many of a million numbers. Seven passes: three states read and written, gradients read. */
export function adamRow([count, size]: [number, number]): GpuRow {
  return kernelRow({
    task: `adamw_${Math.round((count * size) / 1e6)}M`,
    role: "adamw",
    flops: 12 * count * size,
    bytes: 28 * count * size,
    unit: "GB/s",
    prepare(device) {
      const some = (seed: number) => Array.from({ length: count }, (_, i) => deviceRandom([size], seed + i));
      const [parameters, gradients] = [some(1), some(1 + count)];
      const optimizer = new AdamW(new Map(parameters.map((p, i) => [`p${i}`, p])), { weightDecay: 0.01 });
      const step = compile(() => optimizer.step(gradients));
      return {
        run: async (times) => {
          for (let i = 0; i < times; i++) {
            optimizer.lr = 1e-3;
            step();
          }
          await device.sync();
        },
        dispose: () => dispose([parameters, gradients, optimizer.state()]),
      };
    },
  });
}
