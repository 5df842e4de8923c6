import { Bench } from "tinybench";

export interface Timing {
  /** Median milliseconds of one unit of work. */
  ms: number;
  /** Median processor time of it, all threads together: on a software adapter the shaders' time, whoever else runs. */
  cpu_ms: number;
  samples: number;
}

/**
 * Times `run(times)`, which must do `times` units of work and wait for the device once. Short work is repeated inside a
 * sample, so that the wait does not hide it; samples are taken for `ms` milliseconds.
 */
export async function measure(run: (times: number) => Promise<void>, ms: number): Promise<Timing> {
  await run(1); // compiles
  const start = performance.now();
  await run(1);
  const once = performance.now() - start;
  const times = Math.max(1, Math.min(64, Math.floor(Math.min(20, ms / 4) / once)));
  // Iterations are a minimum of samples, for work that is longer than the time given.
  const bench = new Bench({ time: ms, iterations: 2, warmupTime: ms / 5, warmupIterations: 1, throws: true });
  const cpu: number[] = [];
  bench.add("row", async () => {
    const before = process.cpuUsage();
    await run(times);
    const { user, system } = process.cpuUsage(before);
    cpu.push((user + system) / 1e3 / times);
  });
  await bench.run();
  const result = bench.tasks[0]?.result;
  if (result?.state !== "completed") throw new Error(`the measurement ended as ${result?.state}`);
  const cpu_ms = cpu.sort((a, b) => a - b)[cpu.length >> 1]!;
  return { ms: result.latency.p50 / times, cpu_ms, samples: result.latency.samplesCount };
}
