import { grads } from "../core/autograd.ts";
import { dispose, persist, scope } from "../core/device.ts";
import { noGrad } from "../core/tape.ts";
import { type Tensor, tensor } from "../core/tensor.ts";
import type { WebGpuDevice } from "../core/webgpu/device.ts";
import { add, attention, layerNorm, linear, matmul, rmsNorm, softmax } from "../kernels/index.ts";
import { values } from "./data.ts";
import { decodeRow, gptTrainRow, trainRow } from "./model_rows.ts";
import type { PeerWork } from "./peers.ts";
import { streamsRow } from "./streams.ts";

/** One thing to time: what it costs at least, and how to do it. */
export interface Row {
  name: string;
  /** Multiplications and additions of one unit of work. */
  flops: number;
  /** Bytes that must be read and written, everything once. */
  bytes: number;
  /** Which of the two the row's figure is given in. */
  unit: "GFLOP/s" | "GB/s";
  /** Tokens of one unit of work, where that is what a user counts. */
  tokens?: number;
  peer?: PeerWork;
  /** What its products are computed of; f32 when absent. */
  precision?: "f32" | "f16";
  /** A kernel, not a step of many: on a GPU its time is taken by timestamp queries. */
  kernel?: boolean;
  /** Measured from `prepare` to the end of the first run, and never again. */
  once?: boolean;
  /** Makes the data. `run` does so many units of work, one after the other, and waits for the device. */
  prepare: (device: WebGpuDevice) => Prepared | Promise<Prepared>;
}

export interface Prepared {
  run: (times: number) => Promise<void>;
  dispose: () => void;
}

function random(shape: number[], seed: number): Tensor {
  return persist(
    tensor(
      values(
        shape.reduce((a, b) => a * b, 1),
        seed,
      ),
      shape,
    ),
  );
}

/** Runs a function of some tensors without keeping its results. */
function opRow(
  shapes: number[][],
  call: (inputs: Tensor[]) => unknown,
  { differentiate = false } = {},
): Row["prepare"] {
  return (device) => {
    const inputs = shapes.map((shape, i) => random(shape, i + 1));
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

function matmulRow(m: number, k: number, n: number): Row {
  return {
    name: m === k && k === n ? `matmul ${n}` : `matmul ${m}x${k}x${n}`,
    flops: 2 * m * k * n,
    bytes: 4 * (m * k + k * n + m * n),
    unit: "GFLOP/s",
    peer: { op: "matmul", sizes: [m, k, n] },
    prepare: opRow(
      [
        [m, k],
        [k, n],
      ],
      ([a, b]) => matmul(a!, b!),
    ),
  };
}

/** A layer of TinyLLM on a training batch of 8 rows of 128 tokens. */
function linearRow(what: string, inFeatures: number, outFeatures: number): Row {
  const tokens = 1024;
  return {
    name: `linear ${what} ${tokens}x${inFeatures}x${outFeatures}`,
    flops: 2 * tokens * inFeatures * outFeatures,
    bytes: 4 * (tokens * inFeatures + inFeatures * outFeatures + tokens * outFeatures),
    unit: "GFLOP/s",
    prepare: opRow(
      [
        [tokens, inFeatures],
        [outFeatures, inFeatures],
      ],
      ([x, w]) => linear(x!, w!),
    ),
  };
}

function rowwise(name: string, parameters: number, peer: string | null, call: (t: Tensor[]) => Tensor): Row {
  const [rows, width] = [2048, 1024];
  return {
    name: `${name} ${rows}x${width}`,
    flops: 8 * rows * width,
    bytes: 8 * rows * width,
    unit: "GB/s",
    ...(peer && { peer: { op: peer, sizes: [rows, width] } }),
    prepare: opRow([[rows, width], ...Array.from({ length: parameters }, () => [width])], call),
  };
}

/** Causal attention; the half of the scores that the mask hides is not counted. */
function attentionRows(batch: number, heads: number, length: number, dim: number): Row[] {
  const shape = [batch, heads, length, dim];
  const forward = 2 * batch * heads * length * length * dim;
  const size = `${batch}x${heads}x${length}x${dim}`;
  const tensorBytes = 4 * batch * heads * length * dim;
  const three = [shape, shape, shape];
  const call = ([q, k, v]: Tensor[]) => attention(q!, k!, v!, { causal: true });
  return [
    {
      name: `attention ${size}`,
      flops: forward,
      bytes: 4 * tensorBytes,
      unit: "GFLOP/s",
      peer: { op: "attention", sizes: shape },
      prepare: opRow(three, call),
    },
    {
      name: `attention+backward ${size}`,
      // Backward: five products of the size of the forward's two.
      flops: 3.5 * forward,
      bytes: 12 * tensorBytes,
      unit: "GFLOP/s",
      prepare: opRow(
        three,
        (inputs) => {
          const y = call(inputs);
          return grads(y, inputs, { cotangents: [y.detach()] });
        },
        { differentiate: true },
      ),
    },
  ];
}

/** What `kiln bench` times on a software adapter, in the order of the table. */
export function smallRows(): Row[] {
  const length = 4 * 2 ** 20;
  return [
    matmulRow(256, 256, 256),
    matmulRow(512, 512, 512),
    matmulRow(1024, 1024, 1024),
    linearRow("qkvo", 128, 128),
    linearRow("gate", 128, 352),
    linearRow("down", 352, 128),
    linearRow("head", 128, 2048),
    rowwise("softmax", 0, "softmax", ([x]) => softmax(x!)),
    rowwise("layer_norm", 2, "layer_norm", ([x, w, b]) => layerNorm(x!, w!, b!)),
    rowwise("rms_norm", 1, null, ([x, w]) => rmsNorm(x!, w!)),
    {
      name: "add 4Mi",
      flops: length,
      bytes: 12 * length,
      unit: "GB/s",
      peer: { op: "add", sizes: [2048, 2048] },
      prepare: opRow(
        [
          [2048, 2048],
          [2048, 2048],
        ],
        ([a, b]) => add(a!, b!),
      ),
    },
    ...attentionRows(8, 4, 128, 32),
    ...attentionRows(1, 4, 1024, 32),
    trainRow(),
    gptTrainRow(),
    decodeRow(1),
    decodeRow(16),
    streamsRow(1),
    streamsRow(16),
  ];
}
