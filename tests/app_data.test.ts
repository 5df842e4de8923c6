import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import type { DataStatistics, PreviewResult } from "../serve/app/protocol.ts";
import { newId } from "../serve/store/index.ts";
import { type ChatServer, chatServer } from "./support/chat_server.ts";

const folder = mkdtempSync(path.join(tmpdir(), "kiln-data-routes-"));
let server: ChatServer;

/** A conversation of one question and its answer, as the chat core would have kept it. */
async function keep(user: string, question: string, answer: string, consent = true): Promise<string> {
  const application = await server.host.open();
  await application.users.ensure(user);
  const { id } = await application.chats(user).create({ consent });
  const [asked, answered] = [newId(), newId()];
  const insert =
    "INSERT INTO message (id, conversation_id, user_id, parent_id, role, content, status, created_at) VALUES (?, ?, ?, ?, ?, ?, 'complete', ?)";
  await application.store.run(insert, [asked, id, user, null, "user", question, Date.now()]);
  await application.store.run(insert, [answered, id, user, asked, "assistant", answer, Date.now()]);
  await application.store.run("UPDATE conversation SET leaf_id = ? WHERE id = ?", [answered, id]);
  return id;
}

const topics = ["rain", "granite", "volcanoes", "honey", "glass", "magnets", "tides", "yeast"];

beforeAll(async () => {
  vi.stubEnv("KILN_DATA_DIR", folder);
  server = await chatServer("data", "single");
  for (const topic of topics)
    await keep(
      "local",
      `How are ${topic} made, in a few words?`,
      `Of ${topic} one knows the ${topic}-specific way they come about.`,
    );
  await keep("local", "Write to bob@example.com for more?", "I would call +1 415 555 2671 about it instead.");
  await keep(
    "local",
    "Tell me a story about a red dragon who lives on a hill and likes to sing",
    "Once there was a dragon who sang until the whole valley sang with him at night.",
  );
  await keep(
    "local",
    "Tell me a story about a red dragon who lives on a hill and likes to dance",
    "Once there was a dragon who sang until the whole valley sang with him at night.",
  );
  await keep("local", "hi", "hello");
  await keep(
    "local",
    "Never use this question as data, please?",
    "zebra: this one has no consent at all.",
    false,
  );
  await keep(
    "local/ben",
    "What does another user ask about here?",
    "zebra: this is what another user was told.",
  );
});
afterAll(async () => {
  await server.server.close(0);
  vi.unstubAllEnvs();
  rmSync(folder, { recursive: true, force: true });
});

describe("the Data screen", () => {
  it("counts the caller's conversations with consent, and nothing else", async () => {
    const { status, body, text } = await server.ask("GET", "/api/data/statistics");
    const found: DataStatistics = body;
    expect(status).toBe(200);
    expect(text).not.toContain("zebra");
    expect(found).toMatchObject({
      total_conversations: 12,
      total_messages: 24,
      duplicates: { exact: 0, near: 1 },
    });
    expect(found.lengths.reduce((sum, { count }) => sum + count, 0)).toBe(12);
    const nobody = await server.ask("GET", "/api/data/statistics?user_id=nobody");
    expect(nobody.body).toMatchObject({ total_conversations: 0, ratings: { up: 0, down: 0, rate: null } });
  });

  it("shows what cleaning would do: a reason for each row that goes, and sums that are the difference", async () => {
    const { body } = await server.ask("POST", "/api/data/preview", { sample: 50 });
    const found: PreviewResult = body;
    expect([found.total, found.kept]).toEqual([12, 10]);
    expect(found.dropped).toEqual({ too_short: 1, near_duplicate: 1 });
    expect(found.dropped_rows.map(({ reason }) => reason).sort()).toEqual(["near_duplicate", "too_short"]);
    expect(found.changed.map(({ after }) => after)).toEqual([
      "Write to [EMAIL] for more?",
      "I would call [PHONE] about it instead.",
    ]);
    expect(found.duplicates).toEqual([
      expect.objectContaining({
        similarity: expect.closeTo(28 / 34, 9),
        kept: expect.objectContaining({ text: expect.stringContaining("sing\n") }),
      }),
    ]);
    const rules = { personal: "drop", min_chars: 1, near_duplicates: "keep" };
    const other: PreviewResult = (await server.ask("POST", "/api/data/preview", { rules })).body;
    expect([other.kept, other.dropped]).toEqual([11, { private_data: 1 }]);
    const bad = await server.ask("POST", "/api/data/preview", { rules: { personal: "burn" } });
    expect([bad.status, bad.body.error.param]).toEqual([422, "rules.personal"]);
  });

  it("builds a dataset of them, and says in words why none is left", async () => {
    const { status, body } = await server.ask("POST", "/api/data/build", { name: "first" });
    expect([status, body.counts]).toEqual([201, { read: 12, invalid: 0, dropped: 2, kept: 10 }]);
    const rows = ["train", "val", "test"].flatMap((split) =>
      readFileSync(path.join(body.folder, `${split}.jsonl`), "utf8")
        .split("\n")
        .filter(Boolean),
    );
    expect(rows).toHaveLength(10);
    expect(rows.join()).not.toMatch(/zebra|bob@/);
    const none = await server.ask("POST", "/api/data/build", { name: "second", rules: { min_chars: 900 } });
    expect([none.status, none.body.error.message]).toEqual([
      422,
      expect.stringMatching(/no conversation is left of 12: dropped as too_short 12/),
    ]);
    expect((await server.ask("POST", "/api/data/build", { name: "../up" })).status).toBe(422);
    expect(existsSync(path.join(folder, "up"))).toBe(false);
  });

  it("gives them out as files", async () => {
    const csv = await server.ask("GET", "/api/data/export?format=csv");
    expect(csv.headers.get("content-disposition")).toBe('attachment; filename="conversations.csv"');
    expect(csv.text.split("\n")[0]).toMatch(/^conversation_id,turn,role,content/);
    expect(csv.text).not.toContain("zebra");
    const pairs = await fetch(`${server.url}/api/data/export?format=preference`);
    expect([pairs.status, await pairs.text()]).toEqual([200, ""]);
    expect((await server.ask("GET", "/api/data/export?format=exe")).status).toBe(422);
  });
});
