import { describe, expect, it } from "vitest";
import {
  type Arrival,
  gaps,
  type Life,
  mean,
  percentile,
  Simulator,
  type SimulatorOptions,
  ttft,
} from "./support/serve_simulator.ts";
import { randomBelow } from "./support/serve_traffic.ts";

/** Ratios that hold whatever the hardware: of the scheduler under a virtual clock and a model of what steps cost. */
const memoryBound = { a: 10, b: 0.003, c: 0 };
/** A step of 512 tokens takes twice as long as one of a few. */
const balanced = { a: 10, b: 0.018, c: 1e-5 };
const linear = { a: 0.5, b: 0.02, c: 0 };

let prompts = 0;
/** Begins as no other does. */
const prompt = (length: number) => [1000 + prompts++, ...new Array<number>(length).fill(1)].slice(0, length);

const integer = (below: (n: number) => number, least: number, most: number) =>
  least + below(most - least + 1);
/** Whole numbers of at least 1 with an exponential distribution. */
const exponential = (below: (n: number) => number, average: number) =>
  Math.ceil(-Math.log(1 - below(2 ** 31) / 2 ** 31) * average);

/** Milliseconds until the last of the answers is there. */
function timeOf(options: SimulatorOptions, arrivals: Arrival[]): number {
  const simulator = new Simulator(options);
  simulator.run(arrivals);
  return simulator.clock;
}

describe("continuous batching", () => {
  for (const slots of [8, 16, 32]) {
    const harmonic = Array.from({ length: slots }, (_, i) => 1 / (i + 1)).reduce((a, b) => a + b);
    it(`of ${slots} is as quick as theory says, against batches that wait for their longest, and against one at a time`, () => {
      const below = randomBelow(slots);
      const lengths = Array.from({ length: 50 * slots }, () => exponential(below, 40));
      const arrivals = lengths.map((maxTokens) => ({ at: 0, request: { prompt: prompt(4), maxTokens } }));
      const options = { costs: memoryBound, maxBatchedTokens: 256 };
      const continuous = timeOf({ ...options, maxSeqs: slots }, arrivals);
      let together = 0;
      for (let i = 0; i < lengths.length; i += slots) {
        const steps = Math.max(...lengths.slice(i, i + slots));
        together += steps * (memoryBound.a + memoryBound.b * slots);
      }
      expect(together / continuous).toBeGreaterThan(0.9 * harmonic);
      const alone = lengths.reduce((sum, steps) => sum + steps, 0) * (memoryBound.a + memoryBound.b);
      expect(alone / continuous).toBeGreaterThan(0.9 * slots);
    });
  }
});

describe("the K/V cache", () => {
  it("wastes less than 4 % of the blocks in use", () => {
    const below = randomBelow(1);
    const simulator = new Simulator({ costs: balanced, maxSeqs: 32 });
    const waste: number[] = [];
    const live: number[] = [];
    simulator.onStep = (scheduler) => {
      const lengths = scheduler.sequences().flatMap(({ running, tokens }) => (running ? tokens.length : []));
      live.push(mean(lengths));
      waste.push(1 - (mean(lengths) * lengths.length) / (scheduler.pool.used * 16));
    };
    const request = () => ({ prompt: prompt(integer(below, 50, 350)), maxTokens: integer(below, 50, 150) });
    simulator.run(Array.from({ length: 200 }, () => ({ at: 0, request: request() })));
    expect(mean(live)).toBeGreaterThan(200);
    expect(mean(waste)).toBeLessThan(0.04);
  });

  it("is in use to 95 % and more while anybody waits", () => {
    const below = randomBelow(2);
    const simulator = new Simulator({ costs: balanced, maxSeqs: 128, maxModelLen: 512, blockCount: 400 });
    const use: number[] = [];
    simulator.onStep = ({ waiting, pool }) => {
      if (waiting > 0) use.push(pool.used / pool.total);
    };
    const request = () => ({ prompt: prompt(integer(below, 50, 150)), maxTokens: integer(below, 50, 150) });
    simulator.run(Array.from({ length: 400 }, () => ({ at: 0, request: request() })));
    expect(mean(use)).toBeGreaterThan(0.95);
  });
});

describe("prompts in chunks", () => {
  /** p99 / p50 of the time between tokens of 16 answers while a prompt of full length arrives every second. */
  function stall(maxBatchedTokens: number): number {
    const simulator = new Simulator({ costs: balanced, maxBatchedTokens });
    const answers = Array.from({ length: 16 }, () => ({
      at: 0,
      request: { prompt: prompt(20), maxTokens: 700 },
    }));
    const long = Array.from({ length: 8 }, (_, i) => ({
      at: 1000 * i + 500,
      request: { prompt: prompt(4095), maxTokens: 1 },
    }));
    const sorted = gaps(simulator.run([...answers, ...long]).slice(0, 16));
    return percentile(sorted, 0.99) / percentile(sorted, 0.5);
  }

  it("stall no answer: p99 of the time between tokens is at most twice p50, five times without chunks", () => {
    expect(stall(512)).toBeLessThanOrEqual(2);
    expect(stall(8192)).toBeGreaterThan(5);
  });

  it("keep no short prompt waiting behind one of full length: two chunks and its own step at most", () => {
    for (const clients of [
      ["a", "a"],
      ["a", "b"],
    ]) {
      for (const moment of [0, 1, 30, 100]) {
        const simulator = new Simulator({ costs: balanced });
        const requests = [4000, 100].map((length, i) => ({
          at: i * moment,
          request: { prompt: prompt(length), maxTokens: 1, client: clients[i] },
        }));
        const [, short] = simulator.run(requests);
        const chunk = balanced.a + balanced.b * 512 + balanced.c * 4096;
        const own = balanced.a + balanced.b * 100 + balanced.c * 100;
        expect(ttft(short)).toBeLessThanOrEqual(2 * chunk + own);
      }
    }
  });
});

describe("the prefix cache", () => {
  it("saves the time of what it holds", () => {
    const whole = 2048;
    for (const cached of [512, 1024, 1536, 1920]) {
      const simulator = new Simulator({ costs: linear });
      const first = prompt(whole);
      const [cold] = simulator.run([{ at: 0, request: { prompt: first, maxTokens: 1 } }]);
      const second = [...first.slice(0, cached), ...prompt(whole - cached)];
      const request = { prompt: second, maxTokens: 1 };
      const [warm] = simulator.run([{ at: simulator.clock, request }]);
      expect(warm.sequence.cachedTokens).toBe(cached);
      const speedup = ttft(cold) / ttft(warm);
      expect(speedup).toBeGreaterThan((0.7 * whole) / (whole - cached));
      if (cached === 1920) expect(speedup).toBeGreaterThan(5);
    }
  });

  it("costs less than 1 % of the throughput where nothing is found in it", () => {
    const traffic = (seed: number, at: number): Arrival[] => {
      const below = randomBelow(seed);
      return Array.from({ length: 150 }, () => ({
        at,
        request: { prompt: prompt(integer(below, 50, 250)), maxTokens: integer(below, 20, 100) },
      }));
    };
    const options = { costs: balanced, maxModelLen: 512, blockCount: 300 };
    const empty = timeOf(options, traffic(3, 0));
    const simulator = new Simulator(options);
    simulator.run(traffic(4, 0));
    const { pool } = simulator.scheduler;
    expect(pool.cached).toBeGreaterThan(0.9 * pool.total);
    const begin = simulator.clock;
    const lives = simulator.run(traffic(3, begin));
    expect(simulator.clock - begin).toBeLessThan(1.01 * empty);
    expect(lives.every(({ sequence }) => sequence.cachedTokens === 0)).toBe(true);
  });
});

describe("overload", () => {
  const options = { costs: balanced, maxSeqs: 64, maxModelLen: 512, blockCount: 500 };

  /** Requests in random intervals of `every` milliseconds on average. */
  function* traffic(every: number): Generator<Arrival> {
    const below = randomBelow(5);
    for (let at = 0; ; at += exponential(below, every * 1000) / 1000) {
      yield { at, request: { prompt: prompt(integer(below, 50, 250)), maxTokens: integer(below, 20, 150) } };
    }
  }
  const ended = ({ sequence, tokens }: Life) => tokens.length === sequence.request.maxTokens;
  /** Tokens per millisecond of the answers that came to their end. */
  const throughput = ({ lives, clock }: Simulator) =>
    lives.filter(ended).reduce((sum, { tokens }) => sum + tokens.length, 0) / clock;

  it("four times of it leaves the throughput, and nobody is served who waited too long", () => {
    const end = 30_000;
    const saturated = new Simulator({ ...options, queue: 64 });
    saturated.run(traffic(1), end);
    const capacity = saturated.lives.filter(ended).length / end;
    const queueWaitMs = 3000;
    const over = new Simulator({ ...options, queue: 256, queueWaitMs });
    over.run(traffic(1 / (4 * capacity)), end);
    expect(over.refused + over.lives.filter(({ dropped }) => dropped).length).toBeGreaterThan(
      2 * over.lives.filter(ended).length,
    );
    expect(over.scheduler.preemptions).toBeGreaterThan(0);
    expect(throughput(over) / throughput(saturated)).toBeGreaterThan(0.95);
    const waits = over.lives.flatMap(({ started, arrived }) => (started === null ? [] : started - arrived));
    expect(
      percentile(
        waits.sort((a, b) => a - b),
        0.99,
      ),
    ).toBeLessThanOrEqual(queueWaitMs);
  });

  it("of memory preempts nobody without end: 32 requests in a pool of 1.2 of the longest", () => {
    const simulator = new Simulator({ costs: balanced, maxSeqs: 16, maxModelLen: 512, blockCount: 39 });
    const lives = simulator.run(
      Array.from({ length: 32 }, () => ({ at: 0, request: { prompt: prompt(16), maxTokens: 496 } })),
    );
    expect(lives.every(ended)).toBe(true);
    const preemptions = lives.map(({ sequence }) => sequence.preemptions);
    expect(simulator.scheduler.preemptions).toBeGreaterThan(0);
    expect(Math.max(...preemptions)).toBeLessThanOrEqual(8);
  });
});
