const cell = typeof SharedArrayBuffer === "undefined" ? null : new Int32Array(new SharedArrayBuffer(4));
const shortest = 0.05;
const longest = 1;
let waits = 0;
/** Start of the current wait; null while the loop is not running. */
let since: number | null = null;

/**
 * Awaits the work of a software adapter with this thread asleep most of the time. While a promise of Dawn's is pending,
 * its Node binding polls at every turn of the event loop without a pause. That takes a whole core, and a software adapter
 * runs its shaders on the cores. Here every turn ends with a nap: a sixteenth of the time waited so far, between 50 us
 * and 1 ms. Sockets and timers are served between naps.
 *
 * Outside Node this is a plain `await`. Don't use it on GPUs: it saves nothing and adds latency.
 */
export async function awaitIdle<T>(promise: Promise<T>): Promise<T> {
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

/** A single loop serves all waiters, including one that starts before the previous wait has been noticed as done. */
function nap(): void {
  if (waits === 0 || since === null) {
    since = null;
    return;
  }
  const waited = performance.now() - since;
  Atomics.wait(cell!, 0, 0, Math.min(Math.max(waited / 16, shortest), longest));
  setImmediate(nap);
}
