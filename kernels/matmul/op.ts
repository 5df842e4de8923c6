import { fitsDType, isFloat } from "../../core/dtype.ts";
import { checkOptions } from "../../core/errors.ts";
import {
  type Call,
  defineOp,
  findOp,
  type GradientContext,
  opError,
  type TensorMeta,
} from "../../core/op.ts";
import { rankOf, sameShape } from "../../core/shape.ts";
import { gradEnabled } from "../../core/tape.ts";
import { apply, type Tensor } from "../../core/tensor.ts";
import { add, cast, gelu, geluTanh, silu } from "../elementwise/index.ts";
import { isIndex } from "../embedding/op.ts";
import { integerMatmul } from "../integer_matmul/op.ts";
import { sumTo } from "../reduce/index.ts";
import { contiguous, reshape, transpose } from "../views/index.ts";
import {
  type Activation,
  geometryOf,
  type MatmulAttrs,
  Mode,
  modeOf,
  productShape,
  residualFits,
} from "./geometry.ts";
import { planMatrix, suitsMatrix, tuneMatrix } from "./matrix.ts";
import { planGemv, planPlain, planSubgroup, planTiled, tuneTiled } from "./plan.ts";
import { matmulReference } from "./reference.ts";
import { matmulSamples } from "./samples.ts";

function infer(inputs: readonly TensorMeta[], attrs: MatmulAttrs) {
  const count = 2 + Number(attrs.bias ?? false) + Number(attrs.residual ?? false);
  const [a, b] = inputs;
  if (inputs.length !== count || !a || !b || a.dtype !== b.dtype || !inputs.every((t) => isFloat(t.dtype))) {
    throw opError("matmul", inputs, `expected ${count} tensors, the first two both f32 or both f16`);
  }
  if (!fitsDType(attrs.scale ?? 1, "f32"))
    throw opError("matmul", inputs, `the scale ${attrs.scale} is outside of f32`);
  const shape = productShape(a.shape, b.shape);
  if (typeof shape === "string") throw opError("matmul", inputs, shape);
  if (attrs.bias && (b.shape.length < 2 || !sameShape(inputs[2].shape, [b.shape.at(-1)!]))) {
    throw opError("matmul", inputs, "the bias must have one value for each column of the second operand");
  }
  if (attrs.residual && !sameShape(inputs.at(-1)!.shape, shape)) {
    throw opError("matmul", inputs, "the residual must have the shape of the product");
  }
  return [{ shape, dtype: attrs.outDtype ?? a.dtype }];
}

/** Whether a GPU should take the kernel for few rows, which reads the second operand once; its order of summation differs. */
function suitsGemv(call: Call<MatmulAttrs>): boolean {
  const { subgroupSize, maxWorkgroupSize } = call.profile;
  if (subgroupSize === 0 || 4 * subgroupSize > maxWorkgroupSize) return false;
  if (call.attrs.batchInvariant || !residualFits(call)) return false;
  const { M, a, b } = geometryOf(call);
  return M <= 4 && modeOf(a) !== Mode.rows && modeOf(b) !== Mode.columns;
}

function gradient({ inputs, attrs, needs }: GradientContext<MatmulAttrs>, [dy]: readonly (Tensor | null)[]) {
  const { bias, residual, activation } = attrs;
  const dLinear = activation ? throughActivation(inputs, attrs, dy!) : dy!;
  const out = operandGradients(inputs[0], inputs[1], dLinear, attrs, needs);
  if (bias) out.push(needs[2] ? cast(sumTo(dLinear, inputs[2].shape), inputs[2].dtype) : null);
  if (residual) out.push(needs.at(-1) ? cast(dy!, inputs.at(-1)!.dtype) : null);
  return out;
}

/** The cotangent of the activation's input. The input is recomputed, since the fused kernel did not keep it. */
function throughActivation(inputs: readonly Tensor[], attrs: MatmulAttrs, dy: Tensor): Tensor {
  const { activation, residual, ...linear } = attrs;
  const x = apply(matmulOp, residual ? inputs.slice(0, -1) : inputs, linear)[0];
  const rule = findOp(activation!).gradient!;
  return rule({ inputs: [x], outputs: [], attrs: {} as never, needs: [true] }, [dy])[0]!;
}

/** dA = scale dC B^T and dB = scale A^T dC, summed over the batch axes that were broadcast. */
function operandGradients(
  a: Tensor,
  b: Tensor,
  dy: Tensor,
  { scale = 1 }: MatmulAttrs,
  needs: readonly boolean[],
): (Tensor | null)[] {
  let left = a.rank === 1 ? reshape(a, [1, a.size]) : a;
  const right = b.rank === 1 ? reshape(b, [b.size, 1]) : b;
  const M = left.shape.at(-2)!;
  const N = right.shape.at(-1)!;
  const batch = dy.shape.slice(0, dy.rank - Number(a.rank > 1) - Number(b.rank > 1));
  let dC = reshape(cast(dy, a.dtype), [...batch, M, N]);
  if (right.rank === 2 && left.rank > 2) {
    // One long product instead of a batch of short ones and a sum over it.
    const rows = left.shape.slice(0, -1).reduce((x, y) => x * y, 1);
    left = reshape(left, [rows, left.shape.at(-1)!]);
    dC = reshape(dC, [rows, N]);
  }
  const product = (x: Tensor, y: Tensor) => apply(matmulOp, [x, y], { scale })[0];
  const flip = (x: Tensor) => transpose(x, -2, -1);
  const dA = () => reshape(sumTo(product(dC, flip(right)), left.shape), a.shape);
  const dB = () => {
    // The gradient gets its operand's layout: the weight of a Linear arrives transposed.
    const columnMajor = right.strides.at(-2) === 1 && right.strides.at(-1) !== 1;
    const d = columnMajor ? flip(product(flip(dC), left)) : product(flip(left), dC);
    return reshape(sumTo(d, right.shape), b.shape);
  };
  return [needs[0] ? dA() : null, needs[1] ? dB() : null];
}

export const matmulOp = defineOp<MatmulAttrs>({
  name: "matmul",
  doc:
    "y = activation(scale * A B + bias) + residual with A [..., M, K], B [..., K, N]; batch axes broadcast, and operands " +
    "of one axis are a row on the left and a column on the right, as in PyTorch's matmul. Sums in f32, in runs of about sqrt(K) where K is long: a sum is off by at most " +
    "2^-24 64 sqrt(K) sum |a b|.",
  infer,
  reference: matmulReference,
  gradient,
  secondOrder: true,
  variants: [
    {
      name: "subgroup",
      file: "matmul/subgroup.wgsl",
      strided: true,
      when: (call) => {
        const { class: kind, subgroupSize } = call.profile;
        return kind === "cpu" && subgroupSize >= 4 && subgroupSize <= 16 && residualFits(call);
      },
      plan: planSubgroup,
    },
    { name: "gemv", file: "matmul/gemv.wgsl", strided: true, when: suitsGemv, plan: planGemv },
    {
      name: "matrix",
      file: "matmul/matrix.wgsl",
      strided: true,
      when: suitsMatrix,
      plan: planMatrix,
      tune: tuneMatrix,
    },
    {
      name: "tiled",
      file: "matmul/tiled.wgsl",
      strided: true,
      when: (call) => call.profile.maxWorkgroupSize >= 256 && residualFits(call),
      plan: planTiled,
      tune: tuneTiled,
    },
    { name: "plain", file: "matmul/plain.wgsl", strided: true, when: residualFits, plan: planPlain },
  ],
  samples: matmulSamples,
});

/** Options of `matmul`; see MatmulAttrs. */
export type MatmulOptions = Pick<MatmulAttrs, "scale" | "batchInvariant" | "outDtype">;

/**
 * Matrix product with PyTorch's rules: [..., M, K] times [..., K, N] with broadcast batch axes; a vector is a row on
 * the left and a column on the right, and its axis is absent from the result. Transposed views are read in place. Integers
 * (both i32 or both u32) are exact, wrap around at 2^32 and take no options.
 */
export function matmul(a: Tensor, b: Tensor, options: MatmulOptions = {}): Tensor {
  checkOptions("matmul", options, ["scale", "batchInvariant", "outDtype"]);
  if (isIndex(a) && isIndex(b) && Object.keys(options).length === 0) return integerMatmul(a, b);
  return apply(matmulOp, [a, b], options)[0];
}

const activations: Record<Activation, (x: Tensor) => Tensor> = { gelu, gelu_tanh: geluTanh, silu };

/** An activation by its name in `linear`. */
export const activate = (x: Tensor, name: Activation): Tensor => activations[name](x);

export interface LinearOptions {
  activation?: Activation | undefined;
  /** Added to the result, whose shape it has. */
  residual?: Tensor | undefined;
  /** The factor of x W^T; 1 by default. */
  scale?: number;
  /** See MatmulAttrs. */
  batchInvariant?: boolean | undefined;
  /** See MatmulAttrs. */
  outDtype?: "f32" | undefined;
}

/**
 * y = activation(scale x W^T + bias) + residual for x [..., K], weight [N, K], bias [N], in one pass; PyTorch's `linear`.
 * While derivatives are recorded the activation is an op of its own, which keeps its input for the gradient.
 */
export function linear(x: Tensor, weight: Tensor, bias?: Tensor | null, options: LinearOptions = {}): Tensor {
  const known = ["activation", "residual", "scale", "batchInvariant", "outDtype"];
  const {
    activation,
    residual,
    scale = 1,
    batchInvariant,
    outDtype,
  } = checkOptions("linear", options, known);
  const given = [x, weight, ...(bias ? [bias] : [])];
  for (const t of given) rankOf("linear", t);
  const records = gradEnabled() && [...given, ...(residual ? [residual] : [])].some((t) => t.requiresGrad);
  if (activation && records) {
    const y = activate(linear(x, weight, bias, { scale, batchInvariant, outDtype }), activation);
    return residual ? add(y, residual) : y;
  }
  const attrs: MatmulAttrs = {
    ...(scale !== 1 && { scale }),
    ...(bias && { bias: true }),
    ...(activation && { activation }),
    ...(residual && { residual: true }),
    ...(batchInvariant && { batchInvariant }),
    ...(outDtype && outDtype !== x.dtype && { outDtype }),
  };
  const inputs = [x, transpose(weight, 0, 1), ...given.slice(2), ...(residual ? [contiguous(residual)] : [])];
  return apply(matmulOp, inputs, attrs)[0];
}
