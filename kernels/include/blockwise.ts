/** Numbers kept as a block's largest magnitude and, for each, the nearest of a few shares of it (Dettmers et al. 2022). */

/**
 * The 256 shares of 8-bit numbers, ascending: seven decades below 1, each with twice as many steps as the one below it, with 0
 * and 1; half of them negative where `signed`. As bitsandbytes' `create_dynamic_map`.
 */
export function dynamicMap(signed: boolean): Float32Array {
  const values = [0, 1];
  for (let decade = 0; decade < 7; decade++) {
    const steps = 2 ** (decade + (signed ? 0 : 1));
    const edge = (i: number) => (i === steps ? 1 : i * (0.9 / steps) + 0.1);
    for (let i = 0; i < steps; i++) {
      const value = ((edge(i) + edge(i + 1)) / 2) * 10 ** (decade - 6);
      values.push(value, ...(signed ? [-value] : []));
    }
  }
  return Float32Array.from(values).sort();
}

/** For each two neighbours of a map the largest f32 that is nearer to the lower one, or as near. */
export function boundariesOf(map: Float32Array): Float32Array {
  return Float32Array.from(map.subarray(1), (upper, i) => {
    const middle = (map[i] + upper) / 2;
    const rounded = new Float32Array([middle]);
    // The next f32 towards minus infinity.
    if (rounded[0] > middle) new Int32Array(rounded.buffer)[0] -= Math.sign(rounded[0]);
    return rounded[0];
  });
}

/** The index of the value of a map that is nearest to `x`; the lower one of two that are as near. */
export function nearestCode(boundaries: Float32Array, x: number): number {
  let low = 0;
  let high = boundaries.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (x > boundaries[middle]) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** Codes of values, and the largest magnitude of each block of `size`; the last block may be shorter. All in f32. */
export function quantizeBlocks(values: ArrayLike<number>, map: Float32Array, size: number) {
  const boundaries = boundariesOf(map);
  const codes = new Uint8Array(values.length);
  const absmax = new Float32Array(Math.ceil(values.length / size));
  for (let i = 0; i < values.length; i++) {
    const block = Math.floor(i / size);
    absmax[block] = Math.max(absmax[block], Math.abs(values[i]));
  }
  for (let i = 0; i < values.length; i++)
    codes[i] = nearestCode(boundaries, Math.fround(values[i] / (absmax[Math.floor(i / size)] || 1)));
  return { codes, absmax };
}
