/**
 * An error meant for the person at the keyboard: one line that says what is wrong and how to fix it.
 * The command line prints only `message` (the stack with `DEBUG=1`) and exits with `exitCode`.
 */
export class KilnError extends Error {
  /** Stable machine-readable name of the problem, e.g. `checkpoint_corrupt`. */
  readonly code: string;
  /** Process exit status: 1 by default, 2 for wrong usage, 75 where the same may work later, 130 after Ctrl-C. */
  readonly exitCode: number;

  constructor(message: string, options: { code?: string; exitCode?: number; cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = "KilnError";
    this.code = options.code ?? "error";
    this.exitCode = options.exitCode ?? 1;
  }
}

/** Wrong usage: the command line exits with 2. */
export const usageError = (message: string, code?: string): KilnError =>
  new KilnError(message, { exitCode: 2, ...(code && { code }) });

/** How messages name a value of the wrong kind. */
export function describe(value: unknown): string {
  if (typeof value === "string") return JSON.stringify(value);
  if (typeof value === "bigint") return `${value}n, a bigint`;
  if (typeof value !== "object" || value === null) return String(value);
  return Array.isArray(value) ? "an array" : `an object (${value.constructor?.name ?? "without a class"})`;
}

/** The nearest of `names` to `given` by edit distance, or null when nothing is close: for "did you mean" lines. */
export function nearestName(given: string, names: readonly string[]): string | null {
  let best: string | null = null;
  let bestDistance = Math.max(2, Math.floor(given.length / 2)) + 1;
  for (const name of names) {
    const distance = editDistance(given.toLowerCase(), name.toLowerCase());
    if (distance < bestDistance) {
      best = name;
      bestDistance = distance;
    }
  }
  return best;
}

/**
 * The options themselves. Throws for one that is not `known`: JavaScript would ignore a misspelt name, one that is spelt as in
 * Python, or a value that is no list of names, without a word.
 */
export function checkOptions<O extends object>(what: string, options: O, known: readonly string[]): O {
  const shape = options && typeof options === "object" ? Object.getPrototypeOf(options) : undefined;
  if (shape !== Object.prototype && shape !== null)
    throw new KilnError(
      `${what}: options are given by name, as { ${known[0]}: … }, not as ${describe(options)}`,
    );
  const unknown = Object.keys(options).find((name) => !known.includes(name));
  if (unknown === undefined) return options;
  const near = nearestName(unknown.replaceAll("_", ""), known);
  const hint = near ? `did you mean ${near}?` : `its options are ${known.join(", ")}`;
  throw new KilnError(`${what}: there is no option ${unknown}; ${hint}`);
}

/** Levenshtein distance with a single row of state. */
function editDistance(a: string, b: string): number {
  const row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    let diagonal = row[0];
    row[0] = i;
    for (let j = 1; j <= b.length; j++) {
      const previous = row[j];
      row[j] = Math.min(row[j] + 1, row[j - 1] + 1, diagonal + (a[i - 1] === b[j - 1] ? 0 : 1));
      diagonal = previous;
    }
  }
  return row[b.length];
}
