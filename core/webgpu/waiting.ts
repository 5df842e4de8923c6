const cell = typeof SharedArrayBuffer === "undefined" ? null : new Int32Array(new SharedArrayBuffer(4));
const shortest = 0.05;
const longest = 1;
let waits = 0;
/** When the wait began that the naps are for; null while nothing naps. */
let since: number | null = null;

/**
 * Awaits what a software adapter is computing, with this thread asleep most of the time. While a promise of Dawn's is
 * open, its Node binding looks for the end of it at every turn of the event loop, without a pause; that takes a whole
 * core, and on a software adapter the cores are what the shaders run on. Here every turn ends with a nap: a sixteenth
 * of the time waited so far, between 50 us and 1 ms. Sockets and timers have their turns between naps.
 *
 * Elsewhere than in Node it is a plain await. For GPUs it is not meant: nothing would be gained, and the end seen late.
 */
export async function restfully<T>(promise: Promise<T>): Promise<T> {
  if (!cell || typeof setImmediate !== "function") return promise;
  waits++;
  if (since === null) setImmediate(nap);
  if (waits === 1) since = performance.now();
  try {
    return await promise;
  } finally {
    waits--;
  }
}

/** One loop, however many wait, and also where the next wait begins before the loop saw the end of the last. */
function nap(): void {
  if (waits === 0 || since === null) {
    since = null;
    return;
  }
  const waited = performance.now() - since;
  Atomics.wait(cell!, 0, 0, Math.min(Math.max(waited / 16, shortest), longest));
  setImmediate(nap);
}
