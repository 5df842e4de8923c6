/** How far one array is from another, where it is farthest in units of what is allowed. */
export interface Comparison {
  /** |got - want| at that element. */
  error: number;
  /** What was allowed there. */
  tolerance: number;
  /** Which element, tensor or step it was. */
  where?: string;
}

export interface CaseResult {
  name: string;
  status: "passed" | "failed" | "skipped";
  error?: number;
  tolerance?: number;
  /** Where the largest error is, why the case failed to run, or why it was skipped. */
  note?: string;
}

export interface Counts {
  passed: number;
  failed: number;
  skipped: number;
}

/** NaN where a number belongs is infinitely far off; equal infinities are equal. */
function excess({ error, tolerance }: Comparison): number {
  if (error === 0) return 0;
  return Number.isNaN(error) ? Number.POSITIVE_INFINITY : error / tolerance;
}

/** The farthest of several comparisons. */
export function worst(comparisons: Iterable<Comparison>): Comparison {
  let most: Comparison = { error: 0, tolerance: 0 };
  let first = true;
  for (const comparison of comparisons) {
    if (first || excess(comparison) > excess(most)) most = comparison;
    first = false;
  }
  return most;
}

/** Allows atol + rtol * |want| at each element. Throws when the lengths differ. */
export function compare(
  got: ArrayLike<number>,
  want: ArrayLike<number>,
  tolerances: { atol: number; rtol?: number },
  where?: string,
): Comparison {
  if (got.length !== want.length)
    throw new Error(`${where ?? "result"}: ${got.length} values, the reference has ${want.length}`);
  const { atol, rtol = 0 } = tolerances;
  const most: Comparison = { error: 0, tolerance: atol };
  for (let i = 0; i < want.length; i++) {
    const tolerance = atol + rtol * Math.abs(want[i]);
    const error = Object.is(got[i], want[i]) ? 0 : Math.abs(got[i] - want[i]);
    if (excess({ error, tolerance }) > excess(most)) Object.assign(most, { error, tolerance });
  }
  return where === undefined ? most : { ...most, where };
}

export interface ReportOptions {
  write: (line: string) => void;
  /** A JSON object on each line instead of text. */
  json?: boolean;
  /** Only cases whose name contains this. */
  filter?: string;
}

/** Collects the cases of a run and prints a line for each. */
export class Report {
  readonly results: CaseResult[] = [];
  readonly #options: ReportOptions;

  constructor(options: ReportOptions) {
    this.#options = options;
  }

  /** Whether a case of this name is wanted. */
  wants(name: string): boolean {
    return name.includes(this.#options.filter ?? "");
  }

  /** Runs one case; whatever it throws is its failure. */
  async check(name: string, body: () => Comparison | Promise<Comparison>): Promise<void> {
    if (!this.wants(name)) return;
    try {
      const found = await body();
      const status = excess(found) <= 1 ? "passed" : "failed";
      this.#add({
        name,
        status,
        error: found.error,
        tolerance: found.tolerance,
        ...note(found.error === 0 ? undefined : found.where),
      });
    } catch (error) {
      this.fail(name, error instanceof Error ? error.message : String(error));
    }
  }

  /** A case that could not be run at all. */
  fail(name: string, reason: string): void {
    if (this.wants(name)) this.#add({ name, status: "failed", note: reason });
  }

  skip(name: string, reason: string): void {
    if (this.wants(name)) this.#add({ name, status: "skipped", note: reason });
  }

  counts(): Counts {
    const count = (status: CaseResult["status"]) => this.results.filter((r) => r.status === status).length;
    return { passed: count("passed"), failed: count("failed"), skipped: count("skipped") };
  }

  /** Writes the summary line. */
  finish(): Counts {
    const counts = this.counts();
    const { passed, failed, skipped } = counts;
    this.#options.write(
      this.#options.json ? JSON.stringify(counts) : `${passed} passed, ${failed} failed, ${skipped} skipped`,
    );
    return counts;
  }

  #add(result: CaseResult): void {
    this.results.push(result);
    this.#options.write(this.#options.json ? JSON.stringify(result) : line(result));
  }
}

function note(where: string | undefined): { note?: string } {
  return where === undefined ? {} : { note: where };
}

function line({ name, status, error, tolerance, note: text }: CaseResult): string {
  const verdict = status === "failed" ? "FAILED" : status;
  const numbers =
    error === undefined || tolerance === undefined
      ? ""
      : `error ${error.toExponential(1)}  tolerance ${tolerance.toExponential(1)}  `;
  return `${name.padEnd(44)} ${numbers}${verdict}${text ? `  (${text})` : ""}`;
}
