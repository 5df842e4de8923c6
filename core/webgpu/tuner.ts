import type { AnyOp, Call, DeviceProfile, TensorMeta, Variant } from "../op.ts";
import type { AdapterDescription } from "../platform/adapter.ts";
import type { Remembered } from "../platform/cache_node.ts";
import { environmentVariable } from "../platform/environment.ts";
import { full, type Tensor, zeros } from "../tensor.ts";
import { withoutErrors } from "./error_scopes.ts";
import type { WebGpuHost } from "./host.ts";
import { emit, type LoweredCall, lower } from "./lowering.ts";

/** Choices by key, as they are kept between processes. */
export type TunedChoices = Record<string, TunedChoice>;

export interface TunedChoice {
  option: string;
  /** Microseconds of one call with each option, best of several. */
  microseconds: Record<string, number>;
}

/** A call whose options nobody has measured. */
interface Question {
  key: string;
  op: AnyOp;
  variant: Variant<never>;
  options: readonly string[];
  inputs: readonly TensorMeta[];
  outputs: readonly TensorMeta[];
  attrs: unknown;
}

/** Each option runs for about this long per round; the best round counts. */
const roundMilliseconds = 4;
const rounds = 3;

/**
 * Chooses between options of a variant that differ in speed but in no bit, by measuring them on this adapter. Until
 * then a call takes the variant's own first choice; `measure` answers what was asked for since, between steps,
 * never inside one.
 */
export class Tuner {
  /** Whether `measure` does anything; choices that are known are used all the same. */
  measures: boolean;
  readonly #store: Remembered<TunedChoices> | null;
  readonly #choices: TunedChoices;
  readonly #open = new Map<string, Question>();
  /** Questions whose options do not all compile here: the variant decides by itself. */
  readonly #unmeasurable = new Set<string>();
  #measuring: Promise<void> | null = null;

  constructor(measures: boolean, store: Remembered<TunedChoices> | null) {
    this.measures = measures;
    this.#store = store;
    this.#choices = store?.load() ?? {};
  }

  /** The option to plan a call with; undefined leaves it to the variant. */
  optionOf(op: AnyOp, variant: Variant<never>, call: Call<never>): string | undefined {
    const asked = variant.tune?.(call);
    if (!asked) return undefined;
    const key = `${op.name}/${variant.name} ${call.inputs.map((t) => t.dtype).join()} ${asked.shapeClass}`;
    const known = this.#choices[key]?.option;
    if (known !== undefined && asked.options.includes(known)) return known;
    if (this.measures && asked.options.length > 1 && !this.#open.has(key) && !this.#unmeasurable.has(key)) {
      const { inputs, outputs, attrs } = call;
      this.#open.set(key, {
        key,
        op,
        variant,
        options: asked.options,
        inputs: inputs.map(layoutOf),
        outputs: outputs.map(layoutOf),
        attrs,
      });
    }
    return undefined;
  }

  /**
   * Measures all open questions. True if calls that were lowered before do not follow the answers. Concurrent callers
   * share one run: side by side, measurements would disturb each other.
   */
  async measure(device: WebGpuHost): Promise<boolean> {
    if (this.#open.size === 0 || device.trace) return false;
    this.#measuring ??= this.#answer(device).finally(() => {
      this.#measuring = null;
    });
    await this.#measuring;
    return true;
  }

  async #answer(device: WebGpuHost): Promise<void> {
    for (const question of this.#open.values()) {
      const microseconds = await timeOptions(device, question);
      const best = Object.entries(microseconds ?? {}).sort((a, b) => a[1] - b[1])[0];
      if (microseconds && best) {
        this.#choices[question.key] = { option: best[0], microseconds };
        this.#store?.save(this.#choices); // at once: a process stopped before the end keeps what it has measured
      } else this.#unmeasurable.add(question.key);
      this.#open.delete(question.key);
    }
    device.forgetLowered();
  }
}

const layoutOf = ({ shape, dtype, strides, offset }: TensorMeta): TensorMeta => ({
  shape,
  dtype,
  strides,
  offset,
});

/**
 * Best microseconds of a call by option; options alternate, so that a busy moment slows all of them alike. Null where
 * an option does not compile.
 */
async function timeOptions(device: WebGpuHost, question: Question): Promise<Record<string, number> | null> {
  const { op, variant, options, attrs } = question;
  const made = [...question.inputs, ...question.outputs].map((meta) => materialise(device, meta));
  const [inputs, outputs] = [made.slice(0, question.inputs.length), made.slice(question.inputs.length)];
  const best: Record<string, number> = {};
  try {
    let lowered: LoweredCall[] = [];
    const compiled = await withoutErrors(device.gpu, async () => {
      lowered = options.map((option) =>
        lower(device, op, inputs, attrs, outputs, { forced: variant.name, option }),
      );
      await device.pipelines.warm();
    });
    if (!compiled) return null;
    const run = async (i: number, times: number) => {
      const start = performance.now();
      for (let t = 0; t < times; t++) emit(device, lowered[i], op, inputs, attrs, outputs);
      await device.sync();
      return (performance.now() - start) / times;
    };
    const times: number[] = [];
    for (const i of options.keys()) {
      await run(i, 1);
      times.push(Math.max(1, Math.min(200, Math.round(roundMilliseconds / (await run(i, 1))))));
    }
    for (let round = 0; round < rounds; round++) {
      for (const [i, option] of options.entries()) {
        const us = (await run(i, times[i])) * 1000;
        best[option] = Math.min(best[option] ?? Number.POSITIVE_INFINITY, Number(us.toFixed(2)));
      }
    }
  } finally {
    for (const t of made) t.storage.free();
  }
  return best;
}

/** A tensor of this layout on a buffer large enough for it. Not zeros, on which chips draw less power and run faster. */
function materialise(device: WebGpuHost, { shape, dtype, strides, offset }: TensorMeta): Tensor {
  const reach = shape.reduce(
    (most, extent, axis) => most + (extent - 1) * Math.max(strides[axis], 0),
    offset,
  );
  const float = dtype === "f32" || dtype === "f16";
  const flat = float ? full([reach + 1], 0.37, dtype, device) : zeros([reach + 1], dtype, device);
  flat.storage.moveTo(null);
  return flat.asStrided(shape, strides, offset);
}

/**
 * The tuner of an adapter, with what earlier processes measured on it. Measuring pays on a GPU; on a processor a kernel
 * can take a second to compile, so there it must be asked for: KILN_TUNE=1, or 0 for never.
 */
export async function openTuner(
  { class: kind }: DeviceProfile,
  description: AdapterDescription,
): Promise<Tuner> {
  const asked = environmentVariable("KILN_TUNE");
  const measures = asked ? asked !== "0" : kind === "gpu";
  if (typeof process === "undefined" || !process.versions?.node) return new Tuner(measures, null);
  const { remembered } = await import("../platform/cache_node.ts");
  return new Tuner(measures, remembered("tuning", JSON.stringify({ version: 1, ...description })));
}
