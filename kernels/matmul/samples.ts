import type { Sample, SampleInput } from "../../core/op.ts";
import type { Shape } from "../../core/shape.ts";
import type { MatmulAttrs } from "./geometry.ts";

type MatmulSample = Sample<MatmulAttrs>;

function of(name: string, a: Shape, b: Shape, rest: Partial<MatmulSample> = {}): MatmulSample {
  // A sum that nearly cancels is off by digits of its terms, not of its own.
  return { name, inputs: [{ shape: a }, { shape: b }], attrs: {}, atol: 5e-5, ...rest };
}

function laidOut(a: SampleInput, b: SampleInput): Partial<MatmulSample> {
  return { inputs: [a, b] };
}

const rounded = { gradcheck: false } as const;

/** Every load mode, edge, broadcast, cut of K and epilogue. */
export function matmulSamples(): MatmulSample[] {
  const transposed = { layout: "transposed" } as const;
  const strided = { layout: "strided" } as const;
  return [
    of("odd", [5, 7], [7, 3]),
    of("aligned", [32, 16], [16, 64], rounded),
    of("large tile", [65, 20], [20, 68], rounded),
    of("edges", [35, 24], [24, 44], rounded),
    of("edge of K", [19, 27], [27, 36], rounded),
    of("transposed A", [20, 12], [12, 8], laidOut({ shape: [20, 12], ...transposed }, { shape: [12, 8] })),
    of("transposed B", [9, 12], [12, 20], laidOut({ shape: [9, 12] }, { shape: [12, 20], ...transposed })),
    of(
      "both transposed",
      [6, 5],
      [5, 7],
      laidOut({ shape: [6, 5], ...transposed }, { shape: [5, 7], ...transposed }),
    ),
    of("transposed edges", [36, 18], [18, 40], {
      ...laidOut({ shape: [36, 18], ...transposed }, { shape: [18, 40], ...transposed }),
      ...rounded,
    }),
    of("gaps", [6, 8], [8, 5], laidOut({ shape: [6, 8], ...strided }, { shape: [8, 5], ...strided })),
    of("batched", [3, 4, 6], [3, 6, 5]),
    of("broadcast", [2, 1, 3, 4], [5, 4, 2]),
    of("rows of a batch", [2, 3, 4], [4, 5]),
    of("batch on the right", [3, 4], [2, 4, 5]),
    of("shared heads", [2, 3, 1, 8], [2, 1, 8, 12]),
    of("vector times matrix", [6], [6, 5]),
    of("matrix times vector", [5, 6], [6]),
    of("batch times vector", [2, 3, 6], [6]),
    of("dot", [9], [9]),
    of("one row", [1, 64], [64, 36], {
      ...laidOut({ shape: [1, 64] }, { shape: [64, 36], ...transposed }),
      ...rounded,
    }),
    of("few rows", [3, 70], [70, 33], {
      ...laidOut({ shape: [3, 70] }, { shape: [70, 33], ...transposed }),
      ...rounded,
    }),
    of("one k", [5, 1], [1, 4]),
    of("no k", [3, 0], [0, 4], rounded),
    of("empty", [0, 3], [3, 4], rounded),
    of("cut K", [8, 1100], [1100, 12], { ...rounded, atol: 3e-4 }),
    of("cut K, odd", [3, 1037], [1037, 7], { ...rounded, atol: 3e-4 }),
    of("batch invariant", [5, 515], [515, 9], { ...rounded, atol: 3e-4, attrs: { batchInvariant: true } }),
    ...epilogueSamples(),
  ];
}

function epilogueSamples(): MatmulSample[] {
  const small = { shape: [2, 3, 4] };
  const weight: SampleInput = { shape: [4, 8], layout: "transposed" };
  const of = (name: string, attrs: MatmulAttrs, rest: Partial<MatmulSample> = {}): MatmulSample => {
    const extra = [
      ...(attrs.bias ? [{ shape: [8] }] : []),
      ...(attrs.residual ? [{ shape: [2, 3, 8] }] : []),
    ];
    return { name, inputs: [small, weight, ...extra], attrs, atol: 5e-5, ...rest };
  };
  return [
    of("bias, scale", { bias: true, scale: 0.25 }),
    of("bias, gelu", { bias: true, activation: "gelu" }),
    of("bias, gelu by tanh, residual", { bias: true, activation: "gelu_tanh", residual: true }),
    of("residual, kept in f32", { residual: true, outDtype: "f32" }),
    of("silu, residual", { activation: "silu", residual: true }),
    {
      name: "everything, cut K",
      inputs: [{ shape: [5, 1030] }, { shape: [1030, 6] }, { shape: [6] }, { shape: [5, 6] }],
      attrs: { bias: true, activation: "gelu", residual: true, scale: 0.1 },
      atol: 3e-4,
      gradcheck: false,
    },
    {
      name: "strided bias and residual",
      inputs: [
        { shape: [5, 8] },
        { shape: [8, 6] },
        { shape: [6], layout: "strided" },
        { shape: [5, 6], layout: "transposed" },
      ],
      attrs: { bias: true, residual: true },
    },
  ];
}
