import seedrandom from "seedrandom";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { wilsonInterval } from "../core/statistics/significance.ts";
import type { Analytics, Message, UsageReport } from "../serve/app/protocol.ts";
import { type ChatServer, chatServer } from "./support/chat_server.ts";

const DAY = 86_400_000;
const BEGIN = Date.UTC(2026, 10, 2, 6);
const DAYS = 9;
const dayOf = (at: number) => new Date(at).toISOString().slice(0, 10);

/** A message of the test's own book-keeping, beside what the server keeps. */
interface Sent {
  user: string;
  at: number;
}

let server: ChatServer;
const sent: Sent[] = [];
let [regenerated, stopped] = [0, 0];

/** The smallest value that a share of them does not exceed, by counting. */
const nearestRank = (values: readonly number[], share: number) =>
  [...values]
    .sort((a, b) => a - b)
    .find((value) => values.filter((one) => one <= value).length >= share * values.length);

/** 200 sessions of 20 users on nine days: they ask, rate, ask again, stop, and come back or do not. */
async function replay(): Promise<void> {
  const random = seedrandom.alea("sessions");
  const application = await server.host.open();
  const visits = Array.from({ length: 200 }, (_, i) => ({
    user: `local/u${i % 20}`,
    // An hour and more between two of one user.
    at: BEGIN + (Math.floor(i / 20) % DAYS) * DAY + (i % 20) * 60_000 + Math.floor(i / 180) * 7 * 3600_000,
    messages: 1 + Math.floor(random() * 3),
  }));
  visits.sort((a, b) => a.at - b.at);
  for (const { user, at, messages } of visits) {
    await application.users.ensure(user);
    let conversation_id: string | null = null;
    for (let i = 0; i < messages; i++) {
      vi.setSystemTime(at + i * 120_000);
      sent.push({ user, at: Date.now() });
      const max_tokens = 1 + Math.floor(random() * 6);
      const accepted = await application.conversing.send(user, {
        ...{ conversation_id, text: "once upon a time", params: { temperature: 0, max_tokens } },
      });
      conversation_id = accepted.conversation_id;
      let { message_id } = accepted;
      const { ended } = await application.conversing.follow(user, message_id, 0, () => {});
      if (random() < 0.1) {
        await application.conversing.stop(user, message_id);
        stopped += (await application.chats(user).message(message_id)).status === "stopped" ? 1 : 0;
      }
      await ended;
      if (random() < 0.15) {
        ({ message_id } = await application.conversing.regenerate(user, message_id, {}));
        await (await application.conversing.follow(user, message_id, 0, () => {})).ended;
        regenerated++;
      }
      if (random() < 0.4) {
        const chats = application.chats(user);
        await chats.rate({ message_id, rating: random() < 0.7 ? 1 : -1 });
        if (random() < 0.2) await chats.rate({ message_id, rating: 0 });
        if (random() < 0.2) await chats.rate({ message_id, rating: -1 });
      }
    }
  }
}

beforeAll(async () => {
  vi.useFakeTimers({ toFake: ["Date"], now: BEGIN });
  server = await chatServer("analytics", "single");
  await replay();
});
afterAll(async () => {
  await server.server.close(0);
  vi.useRealTimers();
});

describe("the numbers of 200 sessions", () => {
  const [from, to] = [dayOf(BEGIN), dayOf(BEGIN + (DAYS - 1) * DAY)];
  const report = async (more = ""): Promise<Analytics> =>
    (await server.ask("GET", `/api/analytics?from=${from}&to=${to}${more}`)).body;

  /** Every answer as its row has it, and its day. */
  async function answers(): Promise<(Message & { day: string; user_id: string })[]> {
    const { store } = await server.host.open();
    const rows = await store.all<Message & { rating: number | null; user_id: string }>(
      "SELECT m.*, f.rating FROM message m LEFT JOIN feedback f ON f.message_id = m.id WHERE m.role = 'assistant'",
    );
    return rows.map((row) => ({ ...row, day: dayOf(row.created_at) })) as never;
  }
  const rating = (row: object) => (row as { rating: number | null }).rating;

  it("are a recount of the messages, the ratings and the answers", async () => {
    const rows = await answers();
    const found = await report();
    const gaps = new Map<string, number>();
    let sessions = 0;
    for (const { user, at } of sent) {
      if (!(at - gaps.get(user)! < 1_800_000)) sessions++;
      gaps.set(user, at);
    }
    expect(sessions).toBe(200);
    const rated = rows.filter((row) => rating(row) !== null);
    expect(rated.length).toBeGreaterThan(50);
    expect([regenerated > 10, stopped > 0]).toEqual([true, true]);
    expect(found.totals).toEqual({
      ...{ sessions, users: 20, messages: sent.length, answers: rows.length },
      regenerate_rate: regenerated / rows.length,
      stop_rate: rows.filter(({ status }) => status === "stopped").length / rows.length,
      coverage: rated.length / rows.length,
    });
    expect(found.models).toEqual(["tiny/fake"]);
    const days = [...new Set(rows.map(({ day }) => day))].sort();
    expect(days).toHaveLength(DAYS);
    expect(found.messages).toEqual(
      days.map((day) => ({
        ...{ day, model: "tiny/fake", count: sent.filter(({ at }) => dayOf(at) === day).length },
      })),
    );
    for (const [i, day] of days.entries()) {
      const own = rows.filter((row) => row.day === day);
      const waits = own.flatMap(({ ttft_ms }) => ttft_ms ?? []);
      const speeds = own.flatMap((row) => {
        const { completion_tokens: tokens } = row as never as { completion_tokens: number };
        if (tokens < 2 || row.ttft_ms === null || row.total_ms! <= row.ttft_ms) return [];
        const speed = ((tokens - 1) * 1000) / (row.total_ms! - row.ttft_ms);
        // What comes faster came as a whole, and says nothing of a model: on a quiet machine some answers of this one do.
        return speed > 20_000 ? [] : speed;
      });
      expect(found.latency[i]).toEqual({
        ...{ day, answers: waits.length, exact: true },
        ...{ ttft_p50_ms: nearestRank(waits, 0.5), ttft_p95_ms: nearestRank(waits, 0.95) },
        ...{ speed_p50: nearestRank(speeds, 0.5), speed_p95: nearestRank(speeds, 0.95) },
      });
      const up = own.filter((row) => rating(row) === 1).length;
      const all = own.filter((row) => rating(row) !== null).length;
      const [low, high] = wilsonInterval(up, all);
      expect(found.thumbs.find((one) => one.day === day)).toEqual({
        ...{ day, up, rated: all, answers: own.length, rate: up / all, low, high },
      });
      const status = (wanted: string) => own.filter((row) => row.status === wanted).length;
      expect(found.failures.find((one) => one.day === day)).toMatchObject({
        ...{ errors: status("error"), fallbacks: 0, stopped: status("stopped") },
      });
    }
    expect(found.failures.reduce((sum, one) => sum + one.regenerated, 0)).toBe(regenerated);
    expect(found.quality.reduce((sum, { count }) => sum + count, 0)).toBe(rows.length);
    const came = (day: number) =>
      new Set(sent.filter(({ at }) => dayOf(at) === dayOf(BEGIN + day * DAY)).map(({ user }) => user));
    const back = (n: number) => {
      const firsts = Array.from({ length: DAYS - n }, (_, day) => [came(day), came(day + n)] as const);
      const users = firsts.reduce((sum, [first]) => sum + first.size, 0);
      return {
        days: n,
        users,
        returned: firsts.reduce((sum, [a, b]) => sum + [...a].filter((user) => b.has(user)).length, 0),
      };
    };
    expect(found.retention).toEqual([back(1), back(7)]);
  });

  it("of usage are exact sums, those of /metrics agree, and groups sum up to all", async () => {
    const rows = await answers();
    const sum = (name: string) =>
      rows.reduce((all, row) => all + (row as never as Record<string, number>)[name]!, 0);
    const { rows: usage }: UsageReport = (await server.ask("GET", `/api/usage?from=${from}&to=${to}`)).body;
    const total = (name: "requests" | "prompt_tokens" | "completion_tokens") =>
      usage.reduce((all, row) => all + row[name], 0);
    expect([total("requests"), total("prompt_tokens"), total("completion_tokens")]).toEqual([
      ...[rows.length, sum("prompt_tokens"), sum("completion_tokens")],
    ]);
    const { text } = await server.ask("GET", "/metrics");
    const counter = (name: string) =>
      text
        .split("\n")
        .filter((line) => line.startsWith(`kiln:${name}{`))
        .reduce((all, line) => all + Number(line.split(" ").at(-1)), 0);
    expect(counter("request_success_total")).toBe(rows.length);
    expect(counter("prompt_tokens_total")).toBe(total("prompt_tokens"));
    // Of a stopped answer the engine may have made a token more than was told.
    const beyond = counter("generation_tokens_total") - total("completion_tokens");
    expect(beyond >= 0 && beyond <= stopped).toBe(true);
    const { totals, groups } = await report("&by=user");
    expect(groups).toHaveLength(20);
    for (const name of ["sessions", "messages", "answers"] as const)
      expect(groups!.reduce((all, group) => all + group[name], 0)).toBe(totals[name]);
    expect((await report("&model=none")).totals).toMatchObject({ messages: 0, answers: 0, coverage: null });
    const [first] = (await report()).messages;
    expect(
      (await server.ask("GET", `/api/analytics?from=${first!.day}&to=${first!.day}`)).body.totals.messages,
    ).toBe(first!.count);
  });

  it("hold no word of what was said, and refuse days that are none", async () => {
    const { store } = await server.host.open();
    expect(JSON.stringify(await store.all("SELECT * FROM event"))).not.toMatch(/once|upon/);
    for (const bad of ["from=2026-02-30", "to=tomorrow", "from=2026-11-05&to=2026-11-04", "by=moon"])
      expect((await server.ask("GET", `/api/analytics?${bad}`)).status).toBe(422);
  });
});
