/**
 * Random numbers without state: a draw is a function of (seed, choice, position), so a token does not depend on what
 * else was sampled before or beside it, and a sequence that is computed again draws the same.
 */
export function uniform(seed: readonly [number, number], choice: number, position: number): number {
  const [high, low] = philox([seed[0], seed[1]], [position, choice, 0, 0]);
  return ((high >>> 5) * 2 ** 26 + (low >>> 6)) / 2 ** 53;
}

/** First two words of Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011). */
function philox(key: [number, number], counter: [number, number, number, number]): [number, number] {
  let [k0, k1] = key;
  let [c0, c1, c2, c3] = counter;
  for (let round = 0; round < 10; round++) {
    const a = BigInt(c0 >>> 0) * 0xd2511f53n;
    const b = BigInt(c2 >>> 0) * 0xcd9e8d57n;
    [c0, c1, c2, c3] = [
      (Number(b >> 32n) ^ c1 ^ k0) >>> 0,
      Number(b & 0xffffffffn),
      (Number(a >> 32n) ^ c3 ^ k1) >>> 0,
      Number(a & 0xffffffffn),
    ];
    k0 = (k0 + 0x9e3779b9) >>> 0;
    k1 = (k1 + 0xbb67ae85) >>> 0;
  }
  return [c0, c1];
}
