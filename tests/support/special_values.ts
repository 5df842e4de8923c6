import { expect } from "vitest";
import type { Device } from "../../core/device.ts";
import { type DType, isFloat } from "../../core/dtype.ts";
import type { AnyOp, Sample } from "../../core/op.ts";
import { numel } from "../../core/shape.ts";
import type { Tensor } from "../../core/tensor.ts";
import { generator, place, runSample, sampleValues, worstRatio } from "./ops_harness.ts";

const inf = Number.POSITIVE_INFINITY;

/** What is planted into one input at a time, then all of it into all inputs. */
const kinds = {
  NaN: [Number.NaN],
  "+inf": [inf],
  "-inf": [-inf],
  zeros: [0, -0],
  both: [Number.NaN, inf, -inf, -0],
};
type Kind = keyof typeof kinds;

/** An input set with special values in it, made anew on any device. */
export interface Planting {
  name: string;
  inputs(device: Device): Tensor[];
}

/**
 * The sample with NaN, infinities and zeros of both signs among its floats: each kind in each float input alone, and all
 * kinds in all of them. Few places, so that other rows and columns show what must not spread. An input that says why it is
 * `finite` keeps its values.
 */
function plantings(op: AnyOp, sample: Sample<unknown>, floatType: DType): Planting[] {
  const dtypes = sample.inputs.map((input) => input.dtype ?? floatType);
  const open = sample.inputs.flatMap((input, i) =>
    isFloat(dtypes[i]) && !input.finite && numel(input.shape) > 0 ? [i] : [],
  );
  if (open.length === 0) return [];
  const each = open.flatMap((i) =>
    (["NaN", "+inf", "-inf", "zeros"] as const).map((kind): [Kind, number[]] => [kind, [i]]),
  );
  return [...each, ["both", open] satisfies [Kind, number[]]].map(([kind, targets]) => ({
    name: `${kind} in ${targets.map((i) => `input ${i}`).join(", ")}`,
    inputs: (device) =>
      sample.inputs.map((input, i) => {
        const seed = `${op.name}/${sample.name}/${i}`;
        const values = sampleValues(input, dtypes[i], seed);
        if (targets.includes(i)) plant(values, kinds[kind], `${seed}/${kind}`);
        return place(device, input, dtypes[i], values);
      }),
  }));
}

function plant(values: number[], special: readonly number[], seed: string): void {
  const next = generator(seed);
  for (const value of special) values[Math.floor(next() * values.length)] = value;
}

/** What the reference says to each planting of the sample that was last asked for: every variant of an op is held to it. */
let known = { of: "", answers: new Map<string, number[][]>() };

async function answerOf(
  reference: Device,
  op: AnyOp,
  sample: Sample<unknown>,
  { floatType, planting }: { floatType: DType; planting: Planting },
): Promise<number[][]> {
  const of = `${op.name}/${sample.name}/${floatType}`;
  if (known.of !== of) known = { of, answers: new Map() };
  const { answers } = known;
  const answer = answers.get(planting.name);
  if (answer) return answer;
  const computed = await runSample(reference, op, planting.inputs(reference), sample.attrs);
  answers.set(planting.name, computed);
  return computed;
}

/** Holds a run on `gpu`, with what decides about kernels already set, to the reference for every planting of the sample. */
export async function specialsEqualReference(
  { reference, gpu }: { reference: Device; gpu: Device },
  op: AnyOp,
  sample: Sample<unknown>,
  floatType: DType,
  run = (inputs: Tensor[]) => runSample(gpu, op, inputs, sample.attrs),
): Promise<void> {
  const { atol = 1e-5, rtol = 1e-4 } = sample;
  const loose = floatType === "f16" ? [Math.max(atol, 4e-3), Math.max(rtol, 4e-3)] : [atol, rtol];
  const ratio = (a: number[], b: number[]) => worstRatio(a, b, loose[0], loose[1]);
  const found: string[] = [];
  for (const planting of plantings(op, sample, floatType)) {
    const { name, inputs } = planting;
    const expected = await answerOf(reference, op, sample, { floatType, planting });
    const actual = await run(inputs(gpu));
    expected.forEach((values, i) => {
      if (ratio(actual[i], values) <= 1) return;
      const at = values.findIndex((v, k) => !(ratio([actual[i][k]], [v]) <= 1));
      found.push(`${name}: result ${i} at ${at} is ${actual[i][at]}, the reference says ${values[at]}`);
    });
  }
  expect(found, `${op.name} ${floatType}`).toEqual([]);
}
