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

describe("conversations that a person takes along", () => {
  const take = async (user: string, file: string, text: string | Uint8Array) => {
    const form = new FormData();
    form.set("user_id", user);
    form.set("file", new Blob([text as string]), file);
    const response = await fetch(`${server.url}/api/conversations/import`, { method: "POST", body: form });
    return { status: response.status, body: await response.json() };
  };
  const listed = async (user: string) =>
    (await server.ask("GET", `/api/conversations?user_id=${user}`)).body.conversations;
  const said = async (user: string, id: string) =>
    (await server.ask("GET", `/api/conversations/${id}/messages?user_id=${user}`)).body.messages;

  it("come back the same from a file, whatever their consent", async () => {
    const application = await server.host.open();
    const id = await keep("local/eva", "What is =1+1, or `a, b`?", 'It is "2",\n and not 3.', false);
    await application.chats("local/eva").patch(id, { title: "Sums", system: "Be brief." });
    const [asked, answered] = await said("eva", id);
    await application.chats("local/eva").rate({ message_id: answered.id, rating: -1, correction: "2" });
    for (const format of ["jsonl", "csv"]) {
      const target = `/api/conversations/${id}/export?format=${format}&user_id=eva`;
      const response = await fetch(server.url + target);
      const [, name] = /filename="(.*)"/.exec(response.headers.get("content-disposition")!)!;
      const user = `from-${format}`;
      const { status, body } = await take(user, name!, new Uint8Array(await response.arrayBuffer()));
      expect([status, body], format).toEqual([201, { conversations: 1, skipped: [] }]);
      const [conversation] = await listed(user);
      expect(conversation, format).toMatchObject({ consent: false, running: false, system: "Be brief." });
      const messages = await said(user, conversation.id);
      expect(messages.map(({ role, content }: { role: string; content: string }) => [role, content])).toEqual(
        [
          ["user", asked.content],
          ["assistant", answered.content],
        ],
      );
      if (format !== "jsonl") continue;
      expect(conversation.title).toBe("Sums");
      expect(messages[1].feedback).toMatchObject({ rating: -1, correction: "2" });
      expect((await server.ask("GET", `/api/search?q=brief+not&user_id=${user}`)).body.hits).toEqual([]);
      expect((await server.ask("GET", `/api/search?q=and+not&user_id=${user}`)).body.hits).toHaveLength(1);
    }
    const all = await server.ask("GET", "/api/me/data?user_id=eva");
    expect(all.text.trim().split("\n")).toHaveLength(1);
    const others = await server.ask("GET", `/api/conversations/${id}/export?user_id=ben`);
    expect([others.status, others.body.error.code]).toEqual([404, "not_found"]);
    expect((await server.ask("GET", "/api/me/data?user_id=nobody")).status).toBe(404);
  });

  it("are named where they are not sound, and leave nothing behind where a file is none of theirs", async () => {
    const sound = {
      messages: [
        { role: "user", content: "What is honey?" },
        { role: "assistant", content: "Sweet." },
      ],
    };
    const lines = [sound, { messages: [{ role: "user", content: "Alone?" }] }].map((one) =>
      JSON.stringify(one),
    );
    const { status, body } = await take("mixed", "mine.jsonl", `${lines.join("\n")}\nno json\n`);
    expect([status, body.conversations]).toEqual([201, 1]);
    expect(body.skipped).toEqual([
      expect.objectContaining({ row: 2, code: "no_assistant" }),
      expect.objectContaining({ row: 3, code: "not_json" }),
    ]);
    for (const [file, content] of [
      ["photo.jsonl", new Uint8Array([137, 80, 78, 71, 0, 255, 1, 2])],
      ["table.csv", "a,b\n1,2\n"],
    ] as const) {
      const { status, body } = await take("none", file, content);
      expect([status, body.error?.message]).toEqual([422, expect.stringContaining(file)]);
      expect(body.error.message).not.toContain(tmpdir());
    }
    const empty = await take("none", "empty.jsonl", "");
    expect([empty.status, empty.body.error.message]).toEqual([422, "empty.jsonl is empty"]);
    const none = await take("none", "words.jsonl", "just words");
    expect(none.body).toMatchObject({ conversations: 0, skipped: [{ row: 1, code: "not_json" }] });
    expect(await listed("none")).toEqual([]);
    expect((await server.ask("POST", "/api/conversations/import", {})).status).toBe(400);
  });

  it("are of whom the query names too, without what no store keeps", async () => {
    const messages = [
      { role: "user", content: "a\0b" },
      { role: "assistant", content: "half \ud83d" },
    ];
    const form = new FormData();
    form.set("file", new Blob([JSON.stringify({ messages })]), "odd.jsonl");
    const sent = await fetch(`${server.url}/api/conversations/import?user_id=odd`, {
      method: "POST",
      body: form,
    });
    expect(sent.status).toBe(201);
    const [{ id }] = await listed("odd");
    expect((await said("odd", id)).map(({ content }: { content: string }) => content)).toEqual([
      "a\ufffdb",
      "half \ufffd",
    ]);
  });
});
