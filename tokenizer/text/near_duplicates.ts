/**
 * Which texts are nearly the same: every pair whose word 3-shingles have a Jaccard similarity of at least a threshold, and no
 * other. Exact, by prefix filtering (Bayardo, Ma and Srikant 2007, "Scaling up all pairs similarity search"): two sets that are
 * so alike share one of the few rarest shingles of each, so that only texts with such a one in common are compared.
 */

/** The set of runs of three words; of fewer words, the one run that they are. */
export function shinglesOf(words: readonly string[]): Set<string> {
  if (words.length < 3) return new Set(words.length === 0 ? [] : [words.join(" ")]);
  const shingles = new Set<string>();
  for (let i = 0; i + 3 <= words.length; i++) shingles.add(`${words[i]} ${words[i + 1]} ${words[i + 2]}`);
  return shingles;
}

/** The size of the intersection over that of the union; 0 for two empty sets. */
export function jaccard(a: ReadonlySet<string>, b: ReadonlySet<string>): number {
  let shared = 0;
  for (const shingle of a) if (b.has(shingle)) shared++;
  return shared === 0 ? 0 : shared / (a.size + b.size - shared);
}

/** Each set as numbers, the rarest shingle first. */
function numbered(sets: readonly ReadonlySet<string>[]): Uint32Array[] {
  const ids = new Map<string, number>();
  const counts: number[] = [];
  const raw = sets.map((set) => {
    const row = new Uint32Array(set.size);
    let at = 0;
    for (const shingle of set) {
      let id = ids.get(shingle);
      if (id === undefined) {
        id = counts.length;
        ids.set(shingle, id);
        counts.push(0);
      }
      counts[id]++;
      row[at++] = id;
    }
    return row;
  });
  const order = Uint32Array.from(counts, (_, i) => i).sort((a, b) => counts[a] - counts[b] || a - b);
  const rank = new Uint32Array(order.length);
  for (let i = 0; i < order.length; i++) rank[order[i]] = i;
  return raw.map((row) => row.map((id) => rank[id]).sort());
}

/** How many numbers two ascending lists share, or -1 once they cannot share `least`. */
function sharedOf(a: Uint32Array, b: Uint32Array, least: number): number {
  let [i, j, shared] = [0, 0, 0];
  while (i < a.length && j < b.length) {
    if (shared + Math.min(a.length - i, b.length - j) < least) return -1;
    if (a[i] === b[j]) {
      shared++;
      i++;
      j++;
    } else if (a[i] < b[j]) i++;
    else j++;
  }
  return shared;
}

/**
 * Calls `found` for each pair of sets with a Jaccard similarity of at least `threshold` (over 0): the later one first, in order.
 * Where `skips(later, earlier)` holds, the two are not compared.
 */
export function forEachNearPair(
  sets: readonly ReadonlySet<string>[],
  threshold: number,
  found: (later: number, earlier: number) => void,
  skips: (later: number, earlier: number) => boolean = () => false,
): void {
  const rows = numbered(sets);
  /** Sets by each number of their prefix. */
  const byNumber = new Map<number, number[]>();
  const seen = new Int32Array(rows.length).fill(-1);
  for (const [later, row] of rows.entries()) {
    // A set that shares `least` of `size` numbers has one of them among its first size - least + 1.
    const prefix = row.length - Math.ceil(threshold * row.length - 1e-9) + 1;
    for (let i = 0; i < Math.min(prefix, row.length); i++) {
      const before = byNumber.get(row[i]) ?? [];
      for (const earlier of before) {
        if (seen[earlier] === later) continue;
        seen[earlier] = later;
        const other = rows[earlier];
        const sizes = row.length + other.length;
        if (Math.min(row.length, other.length) < threshold * Math.max(row.length, other.length) - 1e-9)
          continue;
        if (skips(later, earlier)) continue;
        const least = Math.ceil((threshold / (1 + threshold)) * sizes - 1e-9);
        const shared = sharedOf(row, other, least);
        if (shared >= 0 && shared / (sizes - shared) >= threshold) found(later, earlier);
      }
      if (before.length === 0) byNumber.set(row[i], before);
      before.push(later);
    }
  }
}

/** The star of each set: the earliest set that it is near to and that is in no star but its own, or itself. */
export function starsOf(sets: readonly ReadonlySet<string>[], threshold: number): Int32Array {
  const centre = Int32Array.from(sets, (_, i) => i);
  const near = new Map<number, number>();
  forEachNearPair(
    sets,
    threshold,
    (later, earlier) => near.set(later, Math.min(earlier, near.get(later) ?? earlier)),
    // Only a centre has a star; whether the earlier one is a centre is known, as it comes first.
    (_, earlier) => near.has(earlier),
  );
  for (const [later, earlier] of near) centre[later] = earlier;
  return centre;
}
