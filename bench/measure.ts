import { Bench } from "tinybench";

export interface Timing {
  /** Median milliseconds of one unit of work. */
  ms: number;
  /** Median processor time of it, all threads together: on a software adapter the shaders' time, whoever else runs. */
  cpu_ms: number;
  samples: number;
  /** Milliseconds of the very first unit of work, compilation included. */
  first_ms: number;
}

/**
 * Times `run(times)`, which must do `times` units of work and wait for the device once. Short work is repeated inside a
 * sample, so that the wait does not hide it; samples are taken for `ms` milliseconds. `cpuMs` reads the processor time so far
 * of the process that works: this one by default.
 */
export async function measure(
  run: (times: number) => Promise<unknown>,
  ms: number,
  cpuMs: () => number = ownCpuMs,
): Promise<Timing> {
  const once_ms = async () => {
    const start = performance.now();
    await run(1);
    return performance.now() - start;
  };
  const first_ms = await once_ms();
  const once = await once_ms();
  const times = Math.max(1, Math.min(64, Math.floor(Math.min(20, ms / 4) / once)));
  // Iterations are a minimum of samples, for work that is longer than the time given.
  const options = { time: ms, iterations: 2, warmupTime: ms / 5, warmupIterations: 1, throws: true };
  // Work that is longer than the time given is warm by now, and repeated only as often as a median needs.
  const bench = new Bench(once < ms ? { ...options } : { ...options, warmup: false });
  const cpu: number[] = [];
  bench.add("row", async () => {
    const before = cpuMs();
    await run(times);
    cpu.push((cpuMs() - before) / times);
  });
  await bench.run();
  const result = bench.tasks[0]?.result;
  if (result?.state !== "completed") throw new Error(`the measurement ended as ${result?.state}`);
  const cpu_ms = cpu.sort((a, b) => a - b)[cpu.length >> 1];
  return { ms: result.latency.p50 / times, cpu_ms, samples: result.latency.samplesCount, first_ms };
}

function ownCpuMs(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1e3;
}
