import { KilnError, nearestName } from "../../core/errors.ts";
import { permutation } from "./permutation.ts";

/**
 * The labels of data in the order of their numbers, `id2label`: whole numbers by value, other names by code point, so that
 * it does not depend on the order of the rows.
 */
export function orderLabels(labels: Iterable<string>): string[] {
  const names = [...new Set(labels)];
  if (names.every((name) => /^[+-]?\d{1,15}$/.test(name))) return names.sort((a, b) => Number(a) - Number(b));
  return names.sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)));
}

/**
 * The number of each label in `names`. Throws a KilnError that lists the labels that are not there, for data that was
 * labelled otherwise than what a model learned from.
 */
export function labelIds(labels: readonly string[], names: readonly string[]): Int32Array {
  const numbers = new Map(names.map((name, i) => [name, i]));
  const unknown = [...new Set(labels.filter((label) => !numbers.has(label)))];
  if (unknown.length === 0) return Int32Array.from(labels, (label) => numbers.get(label)!);
  const nearest = nearestName(unknown[0], names);
  const hint = nearest ? ` (did you mean ${JSON.stringify(nearest)}?)` : "";
  throw new KilnError(
    `the data has labels that the model does not know: ${listed(unknown)}${hint}; it knows ${listed(names)}: correct them, or train a model of its own`,
    { code: "labels_unknown" },
  );
}

/** Some names in quotes, long ones cut, and how many more. */
export function listed(names: readonly string[], most = 10): string {
  const short = (name: string) => (name.length > 40 ? `${name.slice(0, 39)}…` : name);
  const shown = names.slice(0, most).map((name) => JSON.stringify(short(name)));
  return `${shown.join(", ")}${names.length > most ? ` and ${names.length - most} more` : ""}`;
}

export interface LabelSplit {
  /** Numbers of rows, in ascending order. */
  train: Uint32Array;
  validation: Uint32Array;
  /** Labels that occur once: their rows are in training, and nothing measures them. */
  once: string[];
}

/**
 * Holds out `fraction` of the rows for validation, the same share of each label as nearly as whole rows allow (largest
 * remainders), at least one of each label that occurs twice or more, and never all of a label. Which rows
 * depends on `seed` and the number of the row among those of its label. `labels` has one entry a row; of rows with several
 * labels, any text that stands for the combination.
 * Errors: a fraction outside [0, 1); no label twice, so that nothing can be held out.
 */
export function stratifiedSplit(
  labels: readonly string[],
  { fraction, seed }: { fraction: number; seed: number },
): LabelSplit {
  if (!(fraction >= 0 && fraction < 1))
    throw new KilnError(`the validation fraction ${fraction} must be at least 0 and below 1`);
  const rows = new Map<string, number[]>();
  for (const [i, label] of labels.entries()) {
    const own = rows.get(label);
    if (own) own.push(i);
    else rows.set(label, [i]);
  }
  const names = orderLabels(rows.keys());
  const once = names.filter((name) => rows.get(name)!.length === 1);
  if (fraction > 0 && once.length === names.length) {
    throw new KilnError(
      `each label occurs once (${listed(names)}), so that none can be held out for validation: give more rows, or --set data.validation_fraction=0`,
      { code: "labels_once" },
    );
  }
  const held = new Uint8Array(labels.length);
  const sizes = heldOut(
    names.map((name) => rows.get(name)!.length),
    fraction,
  );
  for (const [k, name] of names.entries()) {
    const own = rows.get(name)!;
    for (const i of permutation(own.length, seed, k).subarray(0, sizes[k])) held[own[i]] = 1;
  }
  const side = (which: number) => Uint32Array.from(labels.keys()).filter((i) => held[i] === which);
  return { train: side(0), validation: side(1), once };
}

/** How many of each label are held out: whole numbers near `fraction` of each count whose sum is near that of all. */
function heldOut(counts: readonly number[], fraction: number): number[] {
  const most = counts.map((count) => count - 1);
  const exact = counts.map((count) => count * fraction);
  const sizes = exact.map((value, i) => Math.min(most[i], Math.max(Math.floor(value), fraction > 0 ? 1 : 0)));
  const total = Math.round(exact.reduce((sum, value) => sum + value, 0));
  let missing = total - sizes.reduce((sum, size) => sum + size, 0);
  const byRemainder = exact.map((value, i) => [value - sizes[i], i]).sort(([a, i], [b, j]) => b - a || i - j);
  for (const [remainder, i] of byRemainder) {
    if (missing <= 0 || remainder <= 0) break;
    if (sizes[i] === most[i]) continue;
    sizes[i]++;
    missing--;
  }
  return sizes;
}

/** The weight of each label's loss so that all labels count alike: rows / (labels x rows of the label), scikit-learn's "balanced". */
export function classWeights(ids: Int32Array, labels: number): Float32Array {
  const counts = new Float64Array(labels);
  for (const id of ids) counts[id]++;
  // A label without rows is never multiplied with its weight.
  return Float32Array.from(counts, (count) => (count === 0 ? 0 : ids.length / (labels * count)));
}

/** The weights that are given by name, in the order of `names`; 1 for the others. Throws a KilnError for a label that is not there. */
export function labelWeights(
  given: Readonly<Record<string, number>>,
  names: readonly string[],
): Float32Array {
  const unknown = Object.keys(given).filter((label) => !names.includes(label));
  if (unknown.length > 0) {
    throw new KilnError(
      `data.class_weights names ${listed(unknown)}, but the labels are ${listed(names)}: correct it, or leave it out`,
      { code: "labels_unknown" },
    );
  }
  return Float32Array.from(names, (name) => given[name] ?? 1);
}
