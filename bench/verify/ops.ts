import { grads } from "../../core/autograd.ts";
import { isFloat } from "../../core/dtype.ts";
import { KilnError } from "../../core/errors.ts";
import { dispose, scope } from "../../core/scope.ts";
import { type Tensor, tensor } from "../../core/tensor.ts";
import { maskedFill, mul } from "../../kernels/index.ts";
import { type Folder, TensorFile } from "./fixture.ts";
import { type Attributes, type Inputs, opTable } from "./op_table.ts";
import { type Comparison, compare, type Report, worst } from "./report.ts";

/** One case of an ops file. Tensors are given by name; their values are in the safetensors file beside it. */
export interface OpCase {
  name: string;
  op: string;
  attrs: Attributes;
  inputs: Record<string, string>;
  outputs: string[];
  /** One for each floating output. */
  cotangents: string[];
  /** Argument name to the gradient of the sum over outputs of output * cotangent. */
  grads: Record<string, string>;
  atol: number;
  rtol: number;
}

export function isOpCases(json: unknown): json is OpCase[] {
  return Array.isArray(json) && json.every((c) => typeof c?.op === "string" && c.inputs && c.outputs);
}

/** Outputs and every gradient of each case, each element within atol + rtol * |reference|. */
export async function verifyOps(
  report: Report,
  folder: Folder,
  stem: string,
  prefix: string,
  cases: OpCase[],
): Promise<void> {
  let tensors: TensorFile | undefined;
  for (const one of cases) {
    await report.check(`${prefix}/${one.name}`, () => {
      tensors ??= new TensorFile(folder, stem);
      return runCase(one, tensors);
    });
  }
}

interface Results {
  outputs: Tensor[];
  gradients: (Tensor | null)[];
}

async function runCase(one: OpCase, file: TensorFile): Promise<Comparison> {
  const results = scope(() => compute(one, file));
  const comparisons: Comparison[] = [];
  try {
    for (const [i, name] of one.outputs.entries()) {
      const output = results.outputs[i];
      if (!output)
        throw new KilnError(`${one.op} gave ${i} outputs, the reference has ${one.outputs.length}`);
      comparisons.push(await compareTensor(output, file, name, one, `output ${i}`));
    }
    for (const [i, [argument, name]] of Object.entries(one.grads).entries()) {
      const gradient = results.gradients[i];
      if (!gradient) throw new KilnError(`${one.op} gave no gradient for ${argument}`);
      comparisons.push(await compareTensor(gradient, file, name, one, `gradient of ${argument}`));
    }
  } finally {
    dispose([results.outputs, results.gradients]);
  }
  return worst(comparisons);
}

function compute(one: OpCase, file: TensorFile): Results {
  const call = Object.hasOwn(opTable, one.op) ? opTable[one.op] : undefined;
  if (!call) throw new KilnError(`kiln has no op ${one.op}`);
  const leaves = Object.fromEntries(
    Object.entries(one.inputs).map(([argument, name]) => {
      const leaf = file.upload(name);
      return [argument, isFloat(leaf.dtype) && one.cotangents.length > 0 ? leaf.requireGrad() : leaf];
    }),
  );
  const made = call(altered(leaves, one.attrs), one.attrs);
  const outputs = Array.isArray(made) ? made : [made];
  if (one.cotangents.length === 0) return { outputs, gradients: [] };
  const floating = outputs.filter((t) => isFloat(t.dtype));
  const cotangents = floating.map((_, i) => {
    const name = one.cotangents[i];
    return name === undefined ? null : file.upload(name);
  });
  const wanted = Object.keys(one.grads).map((argument) => leaves[argument]);
  return { outputs, gradients: grads(floating, wanted, { cotangents }) };
}

/** What a case does to its `input` before the op: a factor, and -inf from some position of the last axis on. */
function altered(leaves: Inputs, { scale_input: factor, masked_from: from }: Attributes): Inputs {
  let input = leaves.input;
  if (input && typeof factor === "number") input = mul(input, factor);
  if (input && typeof from === "number") {
    const width = input.shape.at(-1)!;
    const hidden = tensor(
      Array.from({ length: width }, (_, i) => (i >= from ? 1 : 0)),
      [width],
      "bool",
    );
    input = maskedFill(input, hidden, Number.NEGATIVE_INFINITY);
  }
  return input ? { ...leaves, input } : leaves;
}

async function compareTensor(
  got: Tensor,
  file: TensorFile,
  name: string,
  one: OpCase,
  where: string,
): Promise<Comparison> {
  const { shape } = file.get(name);
  if (String(got.shape) !== String(shape))
    throw new KilnError(`${where} has shape [${got.shape}], the reference [${shape}]`);
  const whole = !file.isFloat(name);
  const want = whole ? file.integers(name) : file.floats(name);
  return compare(await got.data(), want, whole ? { atol: 0 } : one, where);
}
