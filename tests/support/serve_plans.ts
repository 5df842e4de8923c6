import { BlockTable } from "../../serve/engine/blocks.ts";
import type { Sequence } from "../../serve/engine/sequence.ts";
import type { ItemResult, StepPlan } from "../../serve/engine/types.ts";
import type { ListedScheduler } from "../serve_fake.ts";

/** What `token` says at each place where the plan samples. */
export function resultsOf(
  scheduler: ListedScheduler,
  plan: StepPlan,
  token: (sequence: Sequence) => number = () => 7,
): ItemResult[] {
  return plan.items.map(({ id, samples }) => {
    const sequence = scheduler.get(id);
    const sampled = samples && sequence ? { id: token(sequence), logprob: 0, top: [] } : null;
    return { sampled, scored: [] };
  });
}

/**
 * Every block is free, or held by as many tables as count it; what is written is held by one table and by no index.
 * Holds at any time, whether or not a step is planned.
 */
export function checkBlocks({ pool }: ListedScheduler, sequences: readonly Sequence[]): void {
  const holders = new Int32Array(pool.total);
  for (const { table } of sequences) for (const block of table.blocks) holders[block]++;
  let used = 0;
  let cached = 0;
  for (let block = 0; block < pool.total; block++) {
    if (pool.references(block) !== holders[block]) {
      throw new Error(`block ${block} is held ${holders[block]} times, counted ${pool.references(block)}`);
    }
    if (holders[block] > 0) used++;
    else if (pool.index.has(block)) cached++;
  }
  equal(
    [pool.used, pool.cached, pool.free].join(),
    [used, cached, pool.total - used].join(),
    "used, cached, free",
  );
  for (const { table, computed } of sequences) {
    const full = Math.floor(computed / pool.blockSize);
    table.blocks.forEach((block, i) => {
      const isKnown = pool.index.has(block);
      if (i < full ? !isKnown : isKnown || holders[block] > 1) {
        throw new Error(
          `block ${i} of a sequence with ${full} full ones is ${isKnown ? "" : "not "}in the index`,
        );
      }
    });
  }
}

/**
 * The plan is legal, no block is lost, and no step leaves budget and blocks unused that somebody could use. `ahead`: it was
 * made before the results of the one before it.
 */
export function checkPlan(scheduler: ListedScheduler, { items }: StepPlan, ahead = false): void {
  const { maxBatchedTokens, maxSeqs } = scheduler.config;
  const total = items.reduce((sum, { count }) => sum + count, 0);
  const planned = new Set(items.map(({ id }) => id));
  equal(planned.size, items.length, "different items");
  if (total > maxBatchedTokens || scheduler.running > maxSeqs) throw new Error(`${total} of ${items.length}`);
  let left = 0;
  for (const { id, start, count, samples } of items) {
    const { computed, tokens, table, request } = scheduler.get(id)!;
    const end = start + count;
    const known = tokens.length + (ahead && end > tokens.length ? 1 : 0);
    if (start !== computed && !(ahead && start > computed)) throw new Error(`from ${start}, not ${computed}`);
    equal(samples, end === known && request.maxTokens > 0, "whether an item samples");
    equal(table.missing(end), 0, "blocks that an item lacks");
    left += known - end;
    if (count < 1 || end > known || end >= request.prompt.length + Math.max(1, request.maxTokens)) {
      throw new Error(`${count} of ${known} tokens from ${start}`);
    }
  }
  if (left > 0) equal(total, maxBatchedTokens, "tokens of a step that leaves some");
  const sequences = scheduler.sequences();
  checkBlocks(scheduler, sequences);
  const waiting = sequences.filter(({ running }) => !running);
  equal(scheduler.waiting, waiting.length, "waiting");
  for (const { table } of waiting) equal(table.blocks.length, 0, "blocks of one that waits");
  if (ahead) return;
  equal(scheduler.running, items.length, "running");
  const ready = nextOf(waiting.filter((one) => !follows(one)));
  if (ready.length > 0 && items.length < maxSeqs && ready.every((one) => fits(scheduler, one))) {
    throw new Error("a place and blocks are free, and somebody waits");
  }
  if (waiting.length > 0 && items.length === 0) throw new Error("nothing runs though something waits");
}

/** `expect` takes 20 us, and these are asked a million times. */
function equal<T>(got: T, want: T, what: string): void {
  if (got !== want) throw new Error(`${what}: ${got}, not ${want}`);
}

/** Of several clients anybody may be next, of one client the first in order. */
function nextOf(ready: Sequence[]): Sequence[] {
  if (new Set(ready.map(({ client }) => client)).size !== 1) return ready;
  return [ready.reduce((a, b) => (b.rank < a.rank || (b.rank === a.rank && b.arrival < a.arrival) ? b : a))];
}

function follows({ following }: Sequence): boolean {
  return following?.leader.running === true && following.leader.computed < following.until;
}

/** Whether the blocks suffice for it now, with what is cached of it. */
function fits({ pool }: ListedScheduler, { request, tokens, table }: Sequence): boolean {
  const trial = new BlockTable(pool, table.apart);
  if (!request.scorePrompt || tokens.length > request.prompt.length) trial.adopt(tokens);
  const isEnough = trial.missing(tokens.length) <= pool.free;
  trial.clear();
  return isEnough;
}

/** Plans a step, checks the plan, and takes in its results. */
export function step(scheduler: ListedScheduler, token?: (sequence: Sequence) => number) {
  const plan = scheduler.schedule();
  checkPlan(scheduler, plan);
  return { plan, advanced: scheduler.advance(plan, resultsOf(scheduler, plan, token)) };
}
