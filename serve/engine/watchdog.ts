/** Milliseconds of node's longest timer; one with a longer delay would go off at once. */
export const longestTimer = 2 ** 31 - 1;

/** Waits for `work`; calls `onHang` if it takes longer than `limitMs`, which may be infinite, and goes on waiting. */
export async function watched<T>(work: Promise<T>, limitMs: number, onHang: () => void): Promise<T> {
  const timer = limitMs > longestTimer ? undefined : setTimeout(onHang, limitMs);
  try {
    return await work;
  } finally {
    clearTimeout(timer);
  }
}

/** Waits for `work`, but no longer than `timeoutMs`. */
export async function within(work: Promise<void> | null, timeoutMs: number): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const timeout = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, timeoutMs);
  });
  await Promise.race([work, timeout]);
  clearTimeout(timer);
}
