import { quantile } from "../../core/statistics/quantile.ts";
import { wilsonInterval } from "../../core/statistics/significance.ts";
import type { Store } from "../store/index.ts";
import { SESSION_GAP_MS } from "./events.ts";
import type { Analytics, AnalyticsTotals } from "./protocol.ts";
import { dayName, dayOf, usageReport } from "./usage.ts";

export interface AnalyticsQuery {
  /** Days since 1970 in UTC, both included. */
  readonly from: number;
  readonly to: number;
  /** null: all. */
  readonly model: string | null;
  /** null: everybody's. */
  readonly userId: string | null;
  readonly by?: "model" | "user" | null;
}

const DAY_MS = 86_400_000;
const BATCH = 20_000;
const RETENTION_DAYS = [1, 7, 28];
const QUALITY_BINS = 10;

/** A row of `event` as far as it counts. */
interface Happened {
  id: number;
  at: number;
  user_id: string;
  kind: string;
  message_id: string | null;
  model: string | null;
  value: number | null;
  data: string | null;
}

/** What happened in a range, by what is counted. */
interface Counted {
  readonly sent: Happened[];
  readonly ended: Happened[];
  readonly regenerated: Happened[];
  readonly fallbacks: Happened[];
}

const ENDS = ["answer_done", "answer_stopped", "error"];

/**
 * Numbers about the use of models, each counted from single events and exact: quantiles are by nearest rank over all values, however
 * many there are. Ratings count for the day of their answer, by the last one that was given.
 */
export async function analytics(store: Store, query: AnalyticsQuery): Promise<Analytics> {
  const { from, to, model, by } = query;
  const all = await eventsOf(store, query);
  const ratings = await ratingsOf(store, query);
  const models = [...new Set(all.ended.flatMap((event) => event.model ?? []))].sort();
  const chosen = model === null ? all : where(all, (event) => event.model === model);
  const { sent, ended } = chosen;
  const key = by === "user" ? (event: Happened) => event.user_id : (event: Happened) => event.model ?? "";
  const names = [...new Set([...sent, ...ended].map(key))].sort();
  const groups = names.map((name) => ({
    ...{ name },
    ...totalsOf(
      where(chosen, (event) => key(event) === name),
      ratings,
    ),
  }));
  return {
    ...{ from: dayName(from), to: dayName(to), models, totals: totalsOf(chosen, ratings) },
    ...(by ? { groups } : {}),
    messages: messagesOf(sent),
    latency: byDay(ended).flatMap(([day, own]) => latencyOf(day, own)),
    thumbs: byDay(ended).flatMap(([day, own]) => thumbsOf(day, own, ratings)),
    failures: failuresOf(chosen),
    usage: await usageOf(store, query),
    quality: qualityOf(ended),
    retention: retentionOf(sent, from, to),
  };
}

const where = (counted: Counted, wanted: (event: Happened) => boolean): Counted => ({
  sent: counted.sent.filter(wanted),
  ended: counted.ended.filter(wanted),
  regenerated: counted.regenerated.filter(wanted),
  fallbacks: counted.fallbacks.filter(wanted),
});

async function eventsOf(store: Store, { from, to, userId }: AnalyticsQuery): Promise<Counted> {
  const counted: Counted = { sent: [], ended: [], regenerated: [], fallbacks: [] };
  const lists: Record<string, Happened[]> = {
    message_sent: counted.sent,
    regenerate: counted.regenerated,
    fallback: counted.fallbacks,
    ...Object.fromEntries(ENDS.map((kind) => [kind, counted.ended])),
  };
  const user = userId === null ? "" : " AND user_id = ?";
  for (let [at, id] = [from * DAY_MS, -1]; ; ) {
    const rows = await store.all<Happened>(
      `SELECT id, at, user_id, kind, message_id, model, value, data FROM event WHERE (at > ? OR (at = ? AND id > ?)) AND at < ?${user} ORDER BY at, id LIMIT ${BATCH}`,
      [at, at, id, (to + 1) * DAY_MS, ...(userId === null ? [] : [userId])],
    );
    for (const row of rows) lists[row.kind]?.push(row);
    const last = rows.at(-1);
    if (last === undefined || rows.length < BATCH) return counted;
    [at, id] = [last.at, last.id];
  }
}

/** The last rating of each message, of those given since the range began; 0: taken back. */
async function ratingsOf(store: Store, { from, userId }: AnalyticsQuery): Promise<Map<string, number>> {
  const rows = await store.all<{ message_id: string; value: number }>(
    `SELECT message_id, value FROM event WHERE kind = 'feedback' AND at >= ?${userId === null ? "" : " AND user_id = ?"} ORDER BY at, id`,
    [from * DAY_MS, ...(userId === null ? [] : [userId])],
  );
  return new Map(rows.map(({ message_id, value }) => [message_id, value]));
}

function totalsOf(
  { sent, ended, regenerated }: Counted,
  ratings: ReadonlyMap<string, number>,
): AnalyticsTotals {
  const share = (count: number) => (ended.length === 0 ? null : count / ended.length);
  return {
    ...{ sessions: sessionsOf(sent), users: new Set(sent.map(({ user_id }) => user_id)).size },
    ...{ messages: sent.length, answers: ended.length, regenerate_rate: share(regenerated.length) },
    stop_rate: share(ended.filter(({ kind }) => kind === "answer_stopped").length),
    coverage: share(ended.filter(({ message_id }) => ratings.get(message_id ?? "")).length),
  };
}

/** `sent` is in the order of time. */
function sessionsOf(sent: readonly Happened[]): number {
  const last = new Map<string, number>();
  let sessions = 0;
  for (const { user_id, at } of sent) {
    if (at - (last.get(user_id) ?? Number.NEGATIVE_INFINITY) >= SESSION_GAP_MS) sessions++;
    last.set(user_id, at);
  }
  return sessions;
}

/** Events by their day, the earliest first. */
function byDay(events: readonly Happened[]): [day: string, own: Happened[]][] {
  const days = new Map<number, Happened[]>();
  for (const event of events) {
    const own = days.get(dayOf(event.at)) ?? [];
    days.set(dayOf(event.at), own);
    own.push(event);
  }
  return [...days].sort(([a], [b]) => a - b).map(([day, own]) => [dayName(day), own]);
}

function messagesOf(sent: readonly Happened[]): Analytics["messages"] {
  return byDay(sent).flatMap(([day, own]) => {
    const names = [...new Set(own.map(({ model }) => model ?? ""))].sort();
    return names.map((name) => ({
      ...{ day, model: name, count: own.filter(({ model }) => (model ?? "") === name).length },
    }));
  });
}

const dataOf = ({ data }: Happened) =>
  JSON.parse(data ?? "{}") as { speed?: number | null; quality?: number | null };
const ascending = (values: readonly (number | null | undefined)[]) =>
  values.filter((value) => value != null).sort((a, b) => a - b);

function latencyOf(day: string, own: readonly Happened[]): Analytics["latency"] {
  const answers = own.filter(({ kind, value }) => kind !== "error" && value !== null);
  if (answers.length === 0) return [];
  const waits = ascending(answers.map(({ value }) => value));
  const speeds = ascending(answers.map((event) => dataOf(event).speed));
  const speed = (q: number) => (speeds.length === 0 ? null : quantile(speeds, q));
  return [
    {
      ...{ day, answers: answers.length, exact: true },
      ...{ ttft_p50_ms: quantile(waits, 0.5), ttft_p95_ms: quantile(waits, 0.95) },
      ...{ speed_p50: speed(0.5), speed_p95: speed(0.95) },
    },
  ];
}

function thumbsOf(
  day: string,
  own: readonly Happened[],
  ratings: ReadonlyMap<string, number>,
): Analytics["thumbs"] {
  const given = own.flatMap(({ message_id }) => ratings.get(message_id ?? "") || []);
  if (given.length === 0) return [];
  const up = given.filter((rating) => rating > 0).length;
  const [low, high] = wilsonInterval(up, given.length);
  return [{ day, up, rated: given.length, answers: own.length, rate: up / given.length, low, high }];
}

function failuresOf({ ended, regenerated, fallbacks }: Counted): Analytics["failures"] {
  return byDay([...ended, ...regenerated, ...fallbacks]).map(([day, own]) => {
    const count = (kind: string) => own.filter((event) => event.kind === kind).length;
    return {
      ...{ day, errors: count("error"), fallbacks: count("fallback") },
      ...{ stopped: count("answer_stopped"), regenerated: count("regenerate") },
    };
  });
}

async function usageOf(store: Store, query: AnalyticsQuery): Promise<Analytics["usage"]> {
  const days = new Map<string, Analytics["usage"][number]>();
  for (const { day, model, user_id: _, requests: __, ...sums } of (await usageReport(store, query)).rows) {
    if (query.model !== null && model !== query.model) continue;
    const before = days.get(day);
    if (before === undefined) days.set(day, { day, ...sums });
    else for (const name of Object.keys(sums) as (keyof typeof sums)[]) before[name] += sums[name];
  }
  return [...days.values()];
}

function qualityOf(ended: readonly Happened[]): Analytics["quality"] {
  const qualities = ended.flatMap((event) => dataOf(event).quality ?? []);
  if (qualities.length === 0) return [];
  const binOf = (quality: number) => Math.min(QUALITY_BINS - 1, Math.floor(quality * QUALITY_BINS));
  return Array.from({ length: QUALITY_BINS }, (_, bin) => ({
    ...{ low: bin / QUALITY_BINS, high: (bin + 1) / QUALITY_BINS },
    count: qualities.filter((quality) => binOf(quality) === bin).length,
  }));
}

/** Of the users of each day, counted for each day on which they came, how many came n days later; both days in the range. */
function retentionOf(sent: readonly Happened[], from: number, to: number): Analytics["retention"] {
  const days = new Map<number, Set<string>>();
  for (const { at, user_id } of sent) days.set(dayOf(at), (days.get(dayOf(at)) ?? new Set()).add(user_id));
  return RETENTION_DAYS.filter((n) => from + n <= to).map((n) => {
    const pairs = [...days].filter(([day]) => day + n <= to);
    const users = pairs.reduce((sum, [, own]) => sum + own.size, 0);
    const returned = pairs.reduce(
      (sum, [day, own]) => sum + [...own].filter((user) => days.get(day + n)?.has(user)).length,
      0,
    );
    return { days: n, users, returned };
  });
}
