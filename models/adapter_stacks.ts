import { byteSize } from "../core/dtype.ts";
import { KilnError } from "../core/errors.ts";
import { dispose, persist, scope } from "../core/scope.ts";
import { noGrad } from "../core/tape.ts";
import { type Tensor, zeros } from "../core/tensor.ts";
import { assignInto, narrow } from "../kernels/index.ts";
import {
  type Adaptable,
  type ComputeDtype,
  Embedding,
  type LayerAdapter,
  type LoraStack,
  RowAdapter,
} from "../nn/index.ts";
import { type AdapterPlan, tensorNames } from "./adapter_plan.ts";
import type { CausalLM } from "./decoder.ts";
import type { AdapterFiles } from "./formats/peft_directory.ts";
import { quoted } from "./formats/safetensors_header.ts";

/** How many adapters a model may have beside each other, and how large. */
export interface AdapterLimits {
  maxAdapters: number;
  maxRank: number;
}

/** One adapter's part of a stack: an even number of rows, so that writing one in f16 touches whole words and no other's. */
interface Span {
  readonly start: number;
  readonly rows: number;
}

const rowsFor = (rank: number) => rank + (rank % 2);

/** The stack of one layer, and which rows of it are whose. */
interface Stack extends LoraStack {
  readonly taken: Map<number, Span>;
}

/**
 * Low-rank adapters that a model has beside each other on the device, so that each row of a batch can have its own. Their
 * matrices lie one below the other, those of each layer in a stack that grows as needed: an adapter takes as many rows as it
 * has rank.
 */
export class AdapterStacks {
  readonly limits: AdapterLimits;
  /** Changes whenever steps must be traced again: which layers have a stack, and where it is. */
  version = 0;
  readonly #model: CausalLM;
  readonly #dtype: ComputeDtype;
  readonly #stacks = new Map<Adaptable, Stack>();
  readonly #slots = new Map<string, number>();

  constructor(model: CausalLM, limits: Partial<AdapterLimits> = {}) {
    this.#model = model;
    this.#dtype = model.computeDtype;
    this.limits = { maxAdapters: 16, maxRank: 64, ...limits };
  }

  /**
   * Puts an adapter on the device, under a name of its own.
   * @throws KilnError for one that cannot be mixed with others: with DoRA, with parameters trained whole, with a change of an
   *   embedding, or of too large a rank; and where there are as many as there may be.
   */
  add(name: string, path: string, { config, plan, values }: AdapterFiles): void {
    this.#check(path, config.use_dora, plan);
    const { maxAdapters } = this.limits;
    const used = new Set(this.#slots.values());
    const slot = Array.from({ length: maxAdapters }, (_, i) => i).find((i) => !used.has(i));
    if (slot === undefined) {
      throw new KilnError(
        `there are ${maxAdapters} adapters already: unload one, or give --max-loras a larger number`,
        { code: "too_many_adapters" },
      );
    }
    // Everything is read before anything is changed.
    const half = this.#dtype === "f16";
    const changes = [...plan.targets].map(([module, { layer, rank, alpha }]) => {
      const [a, b] = tensorNames(module, layer);
      const scale = alpha / (config.use_rslora ? Math.sqrt(rank) : rank);
      return { layer, rank, scale, a: values(a, half), b: transposed(values(b, half), rank) };
    });
    this.#slots.set(name, slot);
    for (const { layer, rank, scale, a, b } of changes) {
      const stack = this.#room(layer, rank);
      const start = gapOf(stack, rank)!;
      stack.taken.set(slot, { start, rows: rowsFor(rank) });
      narrow(stack.a, 0, start, rank).write(a);
      narrow(stack.b, 0, start, rank).write(b);
      narrow(stack.spans, 0, slot, 1).write([start, rank]);
      narrow(stack.scales, 0, slot, 1).write([scale]);
    }
  }

  /** Bytes of the buffers that `add` would take anew. Throws as that. */
  newBuffers(path: string, { config, plan }: AdapterFiles): number[] {
    this.#check(path, config.use_dora, plan);
    return [...plan.targets.values()].flatMap(({ layer, rank }) => {
      const old = this.#stacks.get(layer);
      const rows = capacityFor(old, rank);
      return rows === old?.a.shape[0]
        ? []
        : layer.features.map((width) => rows * width * byteSize(this.#dtype));
    });
  }

  /** The number by which a row of a step asks for an adapter: -1 for none (null). */
  slotOf(name: string | null): number {
    if (name === null) return -1;
    const slot = this.#slots.get(name);
    if (slot === undefined) throw new KilnError(`there is no adapter ${quoted(name)}`);
    return slot;
  }

  /** Takes an adapter away, which no row may ask for any more. A stack that nobody needs gives its memory back. */
  remove(name: string): void {
    const slot = this.slotOf(name);
    this.#slots.delete(name);
    for (const [layer, stack] of this.#stacks) {
      if (!stack.taken.delete(slot)) continue;
      narrow(stack.spans, 0, slot, 1).write([0, 0]);
      if (stack.taken.size > 0) continue;
      this.#stacks.delete(layer);
      this.version++;
      dispose(tensorsOf(stack));
    }
  }

  /**
   * What changes a layer in a step: `slots` i32 [N] are those of its tokens, `headSlots` i32 [R] those of the rows whose logits
   * are wanted.
   */
  adapterOf(slots: Tensor, headSlots: Tensor): (layer: Adaptable) => LayerAdapter {
    return (layer) => {
      const stack = this.#stacks.get(layer) ?? null;
      return new RowAdapter(stack, layer === this.#model.lmHead ? headSlots : slots);
    };
  }

  close(): void {
    for (const stack of this.#stacks.values()) dispose(tensorsOf(stack));
    this.#stacks.clear();
    this.#slots.clear();
  }

  #check(path: string, dora: boolean, { targets, whole }: AdapterPlan): void {
    const refuse = (what: string) => {
      throw new KilnError(
        `${path} ${what}, which cannot be mixed with other adapters in one batch: merge it into its base (kiln export ${path} --to hf) and serve that`,
        { code: "adapter_unsupported" },
      );
    };
    const [trained] = whole.keys();
    if (trained) refuse(`trains ${trained} whole`);
    if (dora) refuse("has DoRA's magnitudes");
    for (const [name, { layer, rank }] of targets) {
      if (layer instanceof Embedding) refuse(`changes the embedding ${quoted(name)}`);
      if (rank > this.limits.maxRank) {
        throw new KilnError(
          `${path} has rank ${rank} at ${name}, above the ${this.limits.maxRank} of --max-lora-rank: give that a larger number`,
          { code: "adapter_unsupported" },
        );
      }
    }
  }

  /** The layer's stack, with `rank` free rows in a row. One that is too short is replaced. */
  #room(layer: Adaptable, rank: number): Stack {
    const old = this.#stacks.get(layer);
    if (old && rank <= old.rank && gapOf(old, rank) !== null) return old;
    const [outputs, inputs] = layer.features;
    const rows = old?.a.shape[0] ?? 0;
    const capacity = capacityFor(old, rank);
    const most = powerOfTwo(Math.max(old?.rank ?? 1, rank));
    const grown = (width: number, before: Tensor | undefined) => {
      const tensor = zeros([capacity, width], this.#dtype);
      if (before) assignInto(narrow(tensor, 0, 0, rows), before);
      return tensor;
    };
    const { maxAdapters } = this.limits;
    const stack: Stack = noGrad(() =>
      scope(() => ({
        a: persist(grown(inputs, old?.a)),
        b: persist(grown(outputs, old?.b)),
        spans: old?.spans ?? persist(zeros([maxAdapters, 2], "i32")),
        scales: old?.scales ?? persist(zeros([maxAdapters])),
        rank: Math.min(most, capacity),
        taken: old?.taken ?? new Map(),
      })),
    );
    this.#stacks.set(layer, stack);
    this.version++;
    dispose([old?.a, old?.b]);
    return stack;
  }
}

const tensorsOf = ({ a, b, spans, scales }: Stack) => [a, b, spans, scales];

const powerOfTwo = (n: number) => 2 ** Math.ceil(Math.log2(n));

/** Where the first free rows for a rank are, or null. */
function gapOf({ a, taken }: Stack, rank: number): number | null {
  const needed = rowsFor(rank);
  let start = 0;
  for (const span of [...taken.values()].sort((x, y) => x.start - y.start)) {
    if (span.start - start >= needed) break;
    start = span.start + span.rows;
  }
  return start + needed <= a.shape[0] ? start : null;
}

/** Rows of a stack that has room for a rank besides what it holds. */
function capacityFor(stack: Stack | undefined, rank: number): number {
  const rows = stack?.a.shape[0] ?? 0;
  return stack && gapOf(stack, rank) !== null ? rows : powerOfTwo(rows + rowsFor(rank));
}

/** B [out, rank] as [rank, out]. */
function transposed(b: Float32Array, rank: number): Float32Array {
  const rows = b.length / rank;
  return Float32Array.from(b, (_, i) => b[(i % rows) * rank + Math.floor(i / rows)]);
}
