import { grads } from "../../core/autograd.ts";
import { compile } from "../../core/compile.ts";
import { dispose, persist, scope } from "../../core/device.ts";
import type { DType } from "../../core/dtype.ts";
import { noGrad } from "../../core/tape.ts";
import { type Tensor, tensor } from "../../core/tensor.ts";
import type { WebGpuDevice } from "../../core/webgpu/device.ts";
import {
  add,
  attention,
  crossEntropy,
  geluTanh,
  layerNorm,
  matmul,
  randomUniform,
  softmax,
  transpose,
} from "../../kernels/index.ts";
import { AdamW } from "../../train/optimizers/index.ts";
import type { Row } from "../rows.ts";
import type { GpuSizes } from "./sizes.ts";

/** A row of the GPU table: its task is the ruler's, its role is what the bars call it. */
export interface GpuRow extends Row {
  task: string;
  precision: "f32" | "f16";
  /** What it is in the table of bars, whatever its size, e.g. `gemm largest f16`. */
  role: string;
}

/** Numbers in [-1, 1) that the device makes itself: the host would need seconds for so many. */
export function deviceRandom(shape: number[], seed: number, dtype: DType = "f32"): Tensor {
  return noGrad(() =>
    scope(() => {
      const unit = randomUniform(shape, tensor([seed, 0, 0, 0], [4], "u32"), 0, dtype);
      return persist(add(add(unit, unit), tensor([-1], [1], dtype)));
    }),
  );
}

/** Runs a function of some tensors without keeping its results; with `differentiate`, of tensors that want gradients. */
function opRow(
  shapes: number[][],
  dtype: DType,
  call: (inputs: Tensor[]) => unknown,
  differentiate = false,
): Row["prepare"] {
  return (device: WebGpuDevice) => {
    const inputs = shapes.map((shape, i) => deviceRandom(shape, i + 1, dtype));
    if (differentiate) for (const input of inputs) input.requireGrad();
    const once = () => scope(() => void (differentiate ? call(inputs) : noGrad(() => call(inputs))));
    return {
      run: async (times) => {
        for (let i = 0; i < times; i++) once();
        await device.sync();
      },
      dispose: () => dispose(inputs),
    };
  };
}

export type Kind = "f32" | "f16";
export const bytesOf = { f32: 4, f16: 2 };

interface Product {
  role: string;
  extents: [m: number, k: number, n: number];
  precision: Kind;
  /** Which operand lies transposed in memory. */
  transposed?: "a" | "b";
}

export function productRow({ role, extents: [m, k, n], precision, transposed }: Product): GpuRow {
  const suffix = transposed ? ` ${transposed === "a" ? "A^T B" : "A B^T"}` : "";
  const task = `matmul_${m}x${k}x${n}`;
  return {
    name: `${task}${suffix} ${precision}`,
    // The ruler has no lines with transposed operands.
    task: task + suffix,
    role: `${role} ${precision}`,
    precision,
    kernel: true,
    flops: 2 * m * k * n,
    bytes: bytesOf[precision] * (m * k + k * n + m * n),
    unit: "GFLOP/s",
    ...(!transposed && precision === "f32" && { peer: { op: "matmul", sizes: [m, k, n] } }),
    prepare: opRow(
      [transposed === "a" ? [k, m] : [m, k], transposed === "b" ? [n, k] : [k, n]],
      precision,
      ([a, b]) => matmul(transposed === "a" ? transpose(a!) : a!, transposed === "b" ? transpose(b!) : b!),
    ),
  };
}

/** What a Linear of a transformer computes: forward, gradient of its weight, gradient of its input. */
export function transformerRows({ tokens, width, inner }: GpuSizes): GpuRow[] {
  return (["f32", "f16"] as const).flatMap((precision) => [
    productRow({ role: "gemm transformer", extents: [tokens, width, inner], precision }),
    productRow({
      role: "gemm transformer A^T B",
      extents: [width, tokens, inner],
      precision,
      transposed: "a",
    }),
    productRow({
      role: "gemm transformer A B^T",
      extents: [tokens, inner, width],
      precision,
      transposed: "b",
    }),
  ]);
}

export function otherProducts(sizes: GpuSizes): GpuRow[] {
  const { tokens, width, inner, vocabulary, fewTokens, vector } = sizes;
  const shapes: [string, [number, number, number]][] = [
    ...sizes.squares.slice(0, -1).map((n): [string, [number, number, number]] => [`gemm ${n}`, [n, n, n]]),
    ["gemm head", [tokens, width, vocabulary]],
    ["gemm few", [fewTokens, width, inner]],
    ["gemm vector", [1, vector, vector]],
  ];
  return shapes.flatMap(([role, extents]) =>
    (["f32", "f16"] as const).map((precision) => productRow({ role, extents, precision })),
  );
}

/**
 * Kernels that pass over memory once. What memory sees is counted: `add` is the ruler's x + x, which reads one tensor (the
 * ruler counts two); `add_two` is x + y, which reads two.
 */
export function matrixRows([rows, width]: [number, number], size: string): GpuRow[] {
  const kernels: [string, string | null, number[][], (t: Tensor[]) => Tensor, number][] = [
    ["softmax", "softmax", [], ([x]) => softmax(x!), 2],
    ["layernorm", "layer_norm", [[width], [width]], ([x, w, b]) => layerNorm(x!, w!, b!), 2],
    ["gelu", "gelu", [], ([x]) => geluTanh(x!), 2],
    ["add", null, [], ([x]) => add(x!, x!), 2],
    ["add_two", "add", [[rows, width]], ([x, y]) => add(x!, y!), 3],
  ];
  return kernels.map(([name, op, others, call, passes]) => ({
    name: `rows_${name}_${rows}x${width} f32`,
    task: `rows_${name}_${rows}x${width}`,
    role: `rows ${name} ${size}`,
    precision: "f32",
    kernel: true,
    flops: rows * width,
    bytes: 4 * passes * rows * width,
    unit: "GB/s",
    ...(op !== null && { peer: { op, sizes: [rows, width] } }),
    prepare: opRow([[rows, width], ...others], "f32", call),
  }));
}

/** Causal attention; the half of the scores that the mask hides is not counted. */
export function attentionRows(shape: GpuSizes["attention"], precision: Kind): GpuRow[] {
  const [batch, heads, length, dim] = shape;
  const size = `${batch}x${heads}x${length}x${dim}`;
  const flops = 2 * batch * heads * length * length * dim;
  const bytes = bytesOf[precision] * batch * heads * length * dim;
  const three = [1, 2, 3].map(() => [...shape]);
  const call = ([q, k, v]: Tensor[]) => attention(q!, k!, v!, { causal: true });
  const both = (inputs: Tensor[]) => {
    const y = call(inputs);
    return grads(y, inputs, { cotangents: [y.detach()] });
  };
  const common = { precision, kernel: true, unit: "GFLOP/s" } as const;
  return [
    {
      ...common,
      name: `attention_fwd_${size} ${precision}`,
      task: `attention_fwd_${size}`,
      role: `attention forward ${precision}`,
      flops,
      bytes: 4 * bytes,
      ...(precision === "f32" && { peer: { op: "attention", sizes: [...shape] } }),
      prepare: opRow(three, precision, call),
    },
    {
      ...common,
      name: `attention_fwdbwd_${size} ${precision}`,
      task: `attention_fwdbwd_${size}`,
      role: `attention both ${precision}`,
      // Backward: five products of the size of the forward's two.
      flops: 3.5 * flops,
      bytes: 12 * bytes,
      prepare: opRow(three, precision, both, true),
    },
  ];
}

export function crossEntropyRow({ tokens, vocabulary }: GpuSizes): GpuRow {
  const task = `cross_entropy_fwdbwd_${tokens}x${vocabulary}`;
  return {
    name: `${task} f32`,
    task,
    role: "cross entropy",
    precision: "f32",
    kernel: true,
    flops: 8 * tokens * vocabulary,
    bytes: 12 * tokens * vocabulary,
    unit: "GB/s",
    prepare(device) {
      const logits = deviceRandom([tokens, vocabulary], 1).requireGrad();
      const target = persist(
        tensor(
          Int32Array.from({ length: tokens }, (_, i) => (i * 7919) % vocabulary),
          [tokens],
          "i32",
        ),
      );
      return {
        run: async (times) => {
          for (let i = 0; i < times; i++) scope(() => void grads(crossEntropy(logits, target), [logits]));
          await device.sync();
        },
        dispose: () => dispose([logits, target]),
      };
    },
  };
}

/** The ruler's parameters: so many of a million numbers. Seven passes: three states read and written, gradients read. */
export function adamRow([count, size]: [number, number]): GpuRow {
  const millions = Math.round((count * size) / 1e6);
  const task = `adamw_${millions}M`;
  return {
    name: `${task} f32`,
    task,
    role: "adamw",
    precision: "f32",
    kernel: true,
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
            optimizer.prepare(1e-3);
            step();
          }
          await device.sync();
        },
        dispose: () => dispose([parameters, gradients, optimizer.state()]),
      };
    },
  };
}
