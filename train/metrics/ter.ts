import { referenceList, splitWords } from "../../core/statistics/words.ts";

/** Tercom's search limits, which affect the scores of long texts. */
const maxShiftSize = 10;
const maxShiftDistance = 50;
const maxShiftCandidates = 1000;
const beamWidth = 25;

/** How a table cell was reached. A dropped word is one too many in the hypothesis, an inserted one is missing there. */
type Step = "match" | "replace" | "drop" | "insert" | undefined;

interface Row {
  cost: number[];
  step: Step[];
}

/**
 * Edit distance from a hypothesis to one reference, within a beam around the diagonal. Successive hypotheses differ by one
 * shift, so the rows of their common prefix are reused.
 */
class EditTable {
  readonly #reference: readonly string[];
  #words: readonly string[] = [];
  readonly #rows: Row[];

  constructor(reference: readonly string[]) {
    this.#reference = reference;
    const first: Row = { cost: [0, ...reference.map((_, i) => i + 1)], step: [undefined] };
    first.step.push(...reference.map((): Step => "insert"));
    this.#rows = [first];
  }

  /** All hypotheses must have the same length, because the beam depends on it. */
  distance(words: readonly string[]): number {
    const changed = words.findIndex((word, i) => word !== this.#words[i]);
    const start = changed === -1 ? words.length : changed;
    for (let i = start + 1; i <= words.length; i++) this.#rows[i] = this.#row(words, i);
    this.#words = words;
    return this.#rows[words.length].cost[this.#reference.length];
  }

  /** The steps for the last hypothesis, from its beginning. */
  trace(): Step[] {
    const steps: Step[] = [];
    let [i, j] = [this.#words.length, this.#reference.length];
    while (i > 0 || j > 0) {
      const step = this.#rows[i].step[j];
      steps.push(step);
      if (step !== "insert") i--;
      if (step !== "drop") j--;
    }
    return steps.reverse();
  }

  #row(words: readonly string[], i: number): Row {
    const size = this.#reference.length;
    const ratio = size / words.length;
    const width = beamWidth < ratio / 2 ? Math.ceil(ratio / 2 + beamWidth) : beamWidth;
    const diagonal = Math.floor(i * ratio);
    const end = i === words.length ? size + 1 : Math.min(size + 1, diagonal + width);
    const above = this.#rows[i - 1].cost;
    const cost: number[] = new Array(size + 1).fill(Number.POSITIVE_INFINITY);
    const step: Step[] = new Array(size + 1).fill(undefined);
    for (let j = Math.max(0, diagonal - width); j < end; j++) {
      if (j > 0) {
        const isEqual = words[i - 1] === this.#reference[j - 1];
        cost[j] = above[j - 1] + (isEqual ? 0 : 1);
        step[j] = isEqual ? "match" : "replace";
      }
      if (above[j] + 1 < cost[j]) [cost[j], step[j]] = [above[j] + 1, "drop"];
      if (j > 0 && cost[j - 1] + 1 < cost[j]) [cost[j], step[j]] = [cost[j - 1] + 1, "insert"];
    }
    return { cost, step };
  }
}

/** The position in the hypothesis of each reference word, and which words of both are wrong. */
function align(steps: readonly Step[]): { position: number[]; hypothesis: boolean[]; reference: boolean[] } {
  const position: number[] = [];
  const hypothesis: boolean[] = [];
  const reference: boolean[] = [];
  for (const step of steps) {
    if (step !== "insert") hypothesis.push(step !== "match");
    if (step === "drop") continue;
    reference.push(step !== "match");
    position.push(hypothesis.length - 1);
  }
  return { position, hypothesis, reference };
}

/** Runs of words that occur in both texts at positions not too far apart. */
function* commonRuns(words: readonly string[], reference: readonly string[]) {
  for (let from = 0; from < words.length; from++) {
    const last = Math.min(reference.length - 1, from + maxShiftDistance);
    for (let to = Math.max(0, from - maxShiftDistance); to <= last; to++) {
      const most = Math.min(maxShiftSize, words.length - from, reference.length - to);
      for (let size = 1; size <= most && words[from + size - 1] === reference[to + size - 1]; size++)
        yield [from, to, size] as const;
    }
  }
}

/** The words with a run of them moved in front of `target`. */
function moved(words: readonly string[], from: number, size: number, target: number): string[] {
  const run = words.slice(from, from + size);
  const rest = [...words.slice(0, from), ...words.slice(from + size)];
  // A target within the run itself counts from the end of the run in Tercom.
  const at = target < from ? target : target > from + size ? target - size : target;
  return [...rest.slice(0, at), ...run, ...rest.slice(at)];
}

interface Shift {
  /** The larger of the first values that differ wins. Positions are negated, so the earliest wins. */
  rank: readonly [gain: number, size: number, from: number, target: number];
  words: string[];
}

function isBetter(a: Shift, b: Shift | undefined): boolean {
  if (b === undefined) return true;
  const at = a.rank.findIndex((value, i) => value !== b.rank[i]);
  return at !== -1 && a.rank[at] > b.rank[at];
}

/** The shift that saves the most edits, and the number of candidates tried so far. */
function bestShift(words: readonly string[], reference: readonly string[], table: EditTable, tried: number) {
  const before = table.distance(words);
  const { position, hypothesis, reference: wrong } = align(table.trace());
  let best: Shift | undefined;
  for (const [from, to, size] of commonRuns(words, reference)) {
    const isWrong = (flags: boolean[], start: number) => flags.slice(start, start + size).includes(true);
    if (!isWrong(hypothesis, from) || !isWrong(wrong, to)) continue;
    if (from <= position[to] && position[to] < from + size) continue;
    let previous = -1;
    for (let i = to - 1; i < to + size; i++) {
      const target = i === -1 ? 0 : position[i] + 1;
      if (target === previous) continue;
      previous = target;
      const candidate = moved(words, from, size, target);
      const gain = before - table.distance(candidate);
      const shift: Shift = { rank: [gain, size, -from, -target], words: candidate };
      tried++;
      if (isBetter(shift, best)) best = shift;
    }
    if (tried >= maxShiftCandidates) break;
  }
  return { gain: best?.rank[0] ?? 0, words: best?.words ?? words, tried };
}

/** The number of word edits and shifts that turn `words` into `reference`. */
function edits(words: readonly string[], reference: readonly string[]): number {
  if (reference.length === 0) return words.length;
  const table = new EditTable(reference);
  let current = words;
  let shifts = 0;
  let tried = 0;
  for (;;) {
    const found = bestShift(current, reference, table, tried);
    tried = found.tried;
    if (tried >= maxShiftCandidates || found.gain <= 0) break;
    shifts++;
    current = found.words;
  }
  return shifts + table.distance(current);
}

/**
 * Translation edit rate (Snover et al. 2006) with the defaults of sacrebleu 2.6: edits per 100 reference words, where moving
 * a run of words counts as one edit. Memory does not grow with the data.
 */
export class Ter {
  readonly #lowercase: boolean;
  #edits = 0;
  #length = 0;

  constructor({ lowercase = true }: { lowercase?: boolean } = {}) {
    this.#lowercase = lowercase;
  }

  /** Adds the fewest edits to any reference and the mean reference length. Throws KilnError if there are no references. */
  add(hypothesis: string, references: string | readonly string[]): void {
    const words = (text: string) => splitWords(this.#lowercase ? text.toLowerCase() : text);
    const all = referenceList(references).map(words);
    this.#edits += Math.min(...all.map((reference) => edits(words(hypothesis), reference)));
    this.#length += all.reduce((sum, { length }) => sum + length, 0) / all.length;
  }

  /** 0 for equal texts. May be above 100. */
  value(): number {
    if (this.#length > 0) return (100 * this.#edits) / this.#length;
    return this.#edits > 0 ? 100 : 0;
  }
}
