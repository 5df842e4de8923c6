import { quantile } from "../../../core/statistics/quantile.ts";
import { wilsonInterval } from "../../../core/statistics/significance.ts";
import type { Store } from "../../store/index.ts";
import type { Experiment, ExperimentArm, ExperimentResult } from "../protocol.ts";
import { dayOf } from "../usage.ts";
import { type Arm, labelOf } from "./assign.ts";
import { type Rate, requiredPerArm, sampleRatio } from "./rates.ts";
import { type Look, SequentialTest } from "./sequential.ts";

/** A row of `experiment`; `arms` is JSON. */
export interface ExperimentRow {
  readonly id: string;
  readonly name: string;
  readonly arms: string;
  readonly unit: Experiment["unit"];
  readonly state: Experiment["state"];
  readonly started_at: number;
  readonly stopped_at: number | null;
  readonly alpha: number;
  readonly tau2: number;
  readonly decision: string | null;
}

const DAY_MS = 86_400_000;
/** The difference that `needed_per_arm` is about. */
const POINTS = 0.1;

/** What one unit thought on one day, by its last rating of it. */
interface DayVote {
  readonly arm: number;
  readonly day: number;
  readonly up: boolean;
}

/** An experiment with what is known of it up to now, or up to its end: counted from the rows each time. */
export async function reportOf(store: Store, row: ExperimentRow): Promise<Experiment> {
  const arms = JSON.parse(row.arms) as Arm[];
  const until = row.stopped_at ?? Date.now();
  const votes = await votesOf(store, row, arms, until);
  const exposed = await store.all<{ arm: string; count: number }>(
    "SELECT arm, count(*) AS count FROM exposure WHERE experiment_id = ? AND first_at <= ? GROUP BY arm",
    [row.id, until],
  );
  const exposedTo = arms.map(({ name }) => exposed.find(({ arm }) => arm === name)?.count ?? 0);
  const looks = looksOf(row, votes, until);
  const { name, unit, state, alpha, tau2, started_at, stopped_at, decision } = row;
  const now = looks.at(-1)!.look;
  const control = ratesOf(votes, Number.POSITIVE_INFINITY)[0]!;
  const rate = control.count === 0 ? null : control.successes / control.count;
  const { pValue, ok } = sampleRatio([exposedTo[0]!, exposedTo[1]!], [arms[0]!.weight, arms[1]!.weight]);
  const result: ExperimentResult = {
    ...{ difference: now.difference, low: now.interval?.[0] ?? null, high: now.interval?.[1] ?? null },
    ...{ p_value: now.pValue, significant: now.significant, sample_ratio: { p_value: pValue, ok } },
    needed_per_arm:
      rate === null ? null : requiredPerArm(rate, rate + POINTS <= 1 ? rate + POINTS : rate - POINTS),
  };
  const facts = await factsOf(store, row, arms, until);
  return {
    ...{ id: row.id, name, state, unit, metric: "thumbs_up_rate", alpha, tau2, result },
    arms: arms.map((arm, i) => ({ ...armOf(arm, votes, i), exposed: exposedTo[i]!, ...facts[i]! })),
    history: looks.slice(0, -1).map(({ at, look }) => ({
      ...{ at, difference: look.difference },
      ...{ low: look.interval?.[0] ?? null, high: look.interval?.[1] ?? null },
    })),
    ...{ started_at, stopped_at, decision },
  };
}

async function votesOf(
  store: Store,
  row: ExperimentRow,
  arms: readonly Arm[],
  until: number,
): Promise<DayVote[]> {
  const labels = arms.map((arm) => labelOf(row, arm));
  const rows = await store.all<{ unit: string; label: string; rating: number; at: number }>(
    `SELECT m.${row.unit}_id AS unit, m.experiment_arm AS label, f.rating, f.created_at AS at FROM message m JOIN feedback f ON f.message_id = m.id WHERE m.experiment_arm IN (?, ?) AND f.created_at <= ? ORDER BY f.created_at, f.id`,
    [...labels, until],
  );
  // The last one of a unit and day stands.
  const votes = new Map<string, DayVote>();
  for (const { unit, label, rating, at } of rows)
    votes.set(`${dayOf(at)} ${unit}`, { arm: labels.indexOf(label), day: dayOf(at), up: rating === 1 });
  return [...votes.values()];
}

/** Rates of both arms up to a day. */
function ratesOf(votes: readonly DayVote[], day: number): [Rate, Rate] {
  const of = (arm: number): Rate => {
    const own = votes.filter((vote) => vote.arm === arm && vote.day <= day);
    return { successes: own.filter(({ up }) => up).length, count: own.length };
  };
  return [of(0), of(1)];
}

/** A look at the end of each day that has ended, and one now. */
function looksOf(
  { started_at, alpha, tau2 }: ExperimentRow,
  votes: readonly DayVote[],
  until: number,
): { at: number; look: Look }[] {
  const test = new SequentialTest({ alpha, tau2 });
  const looks: { at: number; look: Look }[] = [];
  for (let day = dayOf(started_at); day < dayOf(until); day++)
    looks.push({ at: (day + 1) * DAY_MS - 1, look: test.look(...ratesOf(votes, day)) });
  looks.push({ at: until, look: test.look(...ratesOf(votes, dayOf(until))) });
  return looks;
}

function armOf({ name, weight }: Arm, votes: readonly DayVote[], i: number) {
  const { successes: up, count: rated } = ratesOf(votes, Number.POSITIVE_INFINITY)[i as 0 | 1];
  const [low, high] = rated === 0 ? [null, null] : wilsonInterval(up, rated);
  return { name, weight, rated, up, rate: rated === 0 ? null : up / rated, low, high };
}

type Facts = Pick<ExperimentArm, "regenerate_rate" | "stop_rate" | "error_rate" | "ttft_p95_ms">;

/** The guardrails of each arm. */
async function factsOf(
  store: Store,
  row: ExperimentRow,
  arms: readonly Arm[],
  until: number,
): Promise<Facts[]> {
  const labels = arms.map((arm) => labelOf(row, arm));
  const events = await store.all<{ kind: string; label: string; value: number | null }>(
    "SELECT kind, experiment_arm AS label, value FROM event WHERE experiment_arm IN (?, ?) AND at <= ?",
    [...labels, until],
  );
  return labels.map((label) => {
    const own = events.filter((event) => event.label === label);
    const count = (...kinds: string[]) => own.filter(({ kind }) => kinds.includes(kind)).length;
    const answers = count("answer_done", "answer_stopped", "error");
    const share = (n: number) => (answers === 0 ? null : n / answers);
    const waits = own.flatMap(({ kind, value }) =>
      value !== null && (kind === "answer_done" || kind === "answer_stopped") ? [value] : [],
    );
    return {
      ...{ regenerate_rate: share(count("regenerate")), stop_rate: share(count("answer_stopped")) },
      error_rate: share(count("error")),
      ttft_p95_ms:
        waits.length === 0
          ? null
          : quantile(
              waits.sort((a, b) => a - b),
              0.95,
            ),
    };
  });
}

const points = (share: number) => `${share < 0 ? "" : "+"}${(share * 100).toFixed(1)}`;

/** What may be said of a result. */
export function sentence(result: ExperimentResult, alpha: number): string {
  const { difference, low, high, significant, sample_ratio } = result;
  if (!sample_ratio.ok)
    return `people were not split as the weights say (p = ${sample_ratio.p_value.toPrecision(2)})`;
  if (difference === null) return "no arm or one arm alone was rated";
  const interval =
    low === null || high === null
      ? "no interval yet"
      : `always-valid ${Math.round((1 - alpha) * 100)}% interval [${points(low)}, ${points(high)}]`;
  return `${points(difference)} points thumbs-up, ${interval}, ${significant ? "significant" : "not significant"}`;
}
