interface TraceEvent {
  name: string;
  ph: string;
  pid: number;
  tid: number;
  /** Microseconds of processor time. */
  tdur?: number;
  args?: { name?: string };
}

/**
 * The longest task of the main threads of pages in a trace of Chromium, and how many were counted. Milliseconds of processor
 * time, since others use the cores as well.
 */
export function longestTask(trace: Buffer): { longest: number; tasks: number } {
  const { traceEvents } = JSON.parse(trace.toString()) as { traceEvents: TraceEvent[] };
  const mains = new Set(
    traceEvents
      .filter(({ name, args }) => name === "thread_name" && args?.name === "CrRendererMain")
      .map(({ pid, tid }) => `${pid} ${tid}`),
  );
  // Whole ones ("X"): the task in which the trace is stopped has begun ("B") and not ended.
  const tasks = traceEvents.filter(
    ({ name, ph, pid, tid }) => /RunTask$/.test(name) && ph === "X" && mains.has(`${pid} ${tid}`),
  );
  return { longest: Math.max(0, ...tasks.map(({ tdur }) => tdur! / 1000)), tasks: tasks.length };
}
