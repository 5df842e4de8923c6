import { KilnError } from "../../core/errors.ts";
import { adapterChanges } from "../../models/formats/gguf_adapter.ts";
import type { GgufDtype } from "../../models/formats/gguf_model.ts";
import { type LoadedModel, loadModel, readTensors } from "../../models/formats/hf_directory.ts";
import { loadAdapted } from "../../models/formats/peft_directory.ts";
import { type HostTensor, toFloat32 } from "../../models/formats/safetensors.ts";
import { type CausalLM, PagedDecoder } from "../../models/index.ts";

/** What an export must give back: a model, its tokenizer, and in host memory its weights, or its adapter's changes of them. */
export interface Original extends Pick<LoadedModel, "model" | "tokenizer"> {
  tensors: ReadonlyMap<string, HostTensor>;
}

/** Reads a model or, where it is for a `base`, an adapter of that, which is then at work. */
export async function openOriginal(path: string, base: string | null): Promise<Original> {
  const { model, tokenizer } = base === null ? await loadModel(path) : await loadAdapted(base, path);
  return { model, tokenizer, tensors: await weightsOf(model) };
}

/** The weights of a model, or the changes of its active adapter. */
export function weightsOf(model: CausalLM): Promise<Map<string, HostTensor>> {
  return model.adapter ? adapterChanges(model) : readTensors(model.namedParameters());
}

/** Largest differences of an export, loaded again, from its original. */
export interface Comparison {
  tensors: number;
  weight: { name: string; difference: number };
  logit: { difference: number; largest: number };
  sameNextToken: boolean;
  texts: number;
  /** Of an adapter that was merged before: by how much that moved the logits, and the largest of them. */
  merge?: { drift: number; largest: number } | null;
}

const prompt = "Once upon a time, in 1999, there was a";
/** Texts whose ids must be the same: words, spaces, digits, other scripts, bytes, and names of special tokens. */
const texts = [
  prompt,
  "  It's 12:30,\n\n\tand they're late!  ",
  "na\u00efve caf\u00e9 \u65e5\u672c\u8a9e \u0438 \u{1f999}",
  "<s></s><|endoftext|><|im_start|>user\nhi<|im_end|>",
  "",
];

/** Half a step of each type relative to the largest weight of its block, and what its scale may be off by. */
const steps: Record<GgufDtype, { relative: number; absolute: number }> = {
  f32: { relative: 0, absolute: 0 },
  f16: { relative: 2 ** -11, absolute: 2 ** -25 },
  q8_0: { relative: 0.5 / 127 + 2 ** -11, absolute: 127 * 2 ** -25 },
  q4_0: { relative: 1 / 8 + 2 ** -11, absolute: 8 * 2 ** -25 },
};

/**
 * Loads what was exported to `path`, an adapter for its `base`, and compares it: every weight within the steps of `dtype`, the ids
 * of fixed texts, the logits after a fixed prompt. Throws a one-line KilnError (`export_differs`) where the export is not the
 * original.
 */
export async function compareExport(
  original: Original,
  path: string,
  dtype: GgufDtype,
  base: string | null = null,
): Promise<Comparison> {
  const { model, tokenizer, tensors } = await openOriginal(path, base);
  // The scale of an adapter may have been rounded on its way through a file's alpha.
  const weight = compareWeights(original.tensors, tensors, dtype, base === null ? 0 : 2 ** -22);
  const [ours, theirs] = [await original.tokenizer.encodeBatch(texts), await tokenizer.encodeBatch(texts)];
  const other = texts.findIndex((_, i) => `${ours[i]}` !== `${theirs[i]}`);
  if (other >= 0) {
    throw differs(
      `its tokenizer encodes ${JSON.stringify(texts[other])} as ${theirs[other]}, the original as ${ours[other]}`,
    );
  }
  const { vocab_size, max_position_embeddings } = original.model.shape;
  const known = ours[0].filter((id) => id < vocab_size).slice(0, max_position_embeddings);
  const ids = known.length > 0 ? known : [0];
  const [before, after] = [await lastLogits(original.model, ids), await lastLogits(model, ids)];
  if (!after.every(Number.isFinite)) throw differs("its logits are not finite");
  return {
    tensors: original.tensors.size,
    weight,
    logit: { difference: largestDifference(before, after), largest: largest(before) },
    sameNextToken: likeliest(before) === likeliest(after),
    texts: texts.length,
  };
}

/** The comparison in one line. */
export function comparisonText(found: Comparison): string {
  const { tensors, weight, logit, sameNextToken, texts: count, merge } = found;
  const before = merge
    ? `merged into the base: logits up to ${short(merge.largest)} move by ${short(merge.drift)}; `
    : "";
  const where = weight.difference === 0 ? "" : ` (${weight.name})`;
  return (
    `${before}loaded again: the weights of ${tensors} tensors are within ${short(weight.difference)}${where}, the logits after a fixed prompt ` +
    `within ${short(logit.difference)} of up to ${short(logit.largest)}, with ${sameNextToken ? "the same" : "another"} likeliest token; ` +
    `the ids of ${count} texts are equal`
  );
}

const short = (value: number) => String(Number(value.toPrecision(3)));

function differs(problem: string): KilnError {
  return new KilnError(
    `the export was loaded again and is not the model: ${problem}; nothing was kept of it`,
    { code: "export_differs" },
  );
}

const largest = (values: Float32Array) => values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
const likeliest = (logits: Float32Array) =>
  logits.reduce((best, value, id) => (value > logits[best] ? id : best), 0);
const largestDifference = (a: Float32Array, b: Float32Array) =>
  a.reduce((most, value, i) => Math.max(most, Math.abs(value - b[i])), 0);

function compareWeights(
  before: ReadonlyMap<string, HostTensor>,
  after: ReadonlyMap<string, HostTensor>,
  dtype: GgufDtype,
  rounding: number,
): Comparison["weight"] {
  let worst = { name: "", difference: 0 };
  for (const [name, tensor] of before) {
    const found = after.get(name);
    if (!found) throw differs(`it has no ${name}`);
    const [a, b] = [toFloat32(tensor), toFloat32(found)];
    const difference = largestDifference(a, b);
    const allowed = largest(a) * (steps[dtype].relative + rounding) + steps[dtype].absolute;
    if (a.length !== b.length || !(difference <= allowed)) {
      throw differs(`${name} is off by ${short(difference)}, and ${dtype} allows ${short(allowed)}`);
    }
    if (difference > worst.difference) worst = { name, difference };
  }
  return worst;
}

/** The logits after the last of `ids`. */
async function lastLogits(model: CausalLM, ids: readonly number[]): Promise<Float32Array> {
  const blocks = Math.ceil(ids.length / 16);
  const decoder = new PagedDecoder(model, {
    numBlocks: blocks,
    blockSize: 16,
    maxSequences: 1,
    maxBlocksPerSequence: blocks,
  });
  const blockTable = Array.from({ length: blocks }, (_, i) => i);
  const [[logits]] = await decoder.forward([{ tokens: ids, start: 0, blockTable, rows: [ids.length - 1] }]);
  const kept = Float32Array.from(logits);
  decoder.close();
  return kept;
}
