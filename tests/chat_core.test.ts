import { mkdtempSync, rmSync } from "node:fs";
import { hostname, tmpdir } from "node:os";
import path from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Application } from "../serve/app/application.ts";
import type { AnswerEvent } from "../serve/app/chat/generation.ts";
import { tokensPerSecond } from "../serve/app/chat/message_rows.ts";
import type { ChatAccepted, ServerEvent } from "../serve/app/protocol.ts";
import { newId, type OpenStore } from "../serve/store/index.ts";
import { type Script, scripted } from "./support/scripted_answers.ts";

const folder = mkdtempSync(path.join(tmpdir(), "kiln-chat-"));
let application: Application;
let source: Script;
let store: OpenStore;
const ada = "local/ada";
beforeAll(async () => {
  ({ application, source, store } = await scripted(path.join(folder, "kiln.db"), { times: { flushMs: 5 } }));
  await application.users.ensure(ada);
  await application.users.ensure("local/ben");
});
afterAll(async () => {
  await application.close();
  rmSync(folder, { recursive: true, force: true });
});

const send = (text: string, more: object = {}) =>
  application.conversing.send(ada, { conversation_id: null, text, model: "fake", ...more });

/** Sends, and lets the answer be `text`. */
async function answered(text: string, answer: string, more: object = {}): Promise<ChatAccepted> {
  const next = source.started.length + 1;
  const accepted = await send(text, more);
  const answering = await source.next(next);
  const { ended } = await application.conversing.follow(ada, accepted.message_id, 0, () => {});
  if (answer !== "") answering.say(answer);
  answering.end();
  await ended;
  return accepted;
}

/** What a client does with the events of an answer. */
class Client {
  text = "";
  seq = 0;
  ends: AnswerEvent[] = [];
  hear = (event: AnswerEvent) => {
    if (event.type === "chat.delta") {
      if (event.offset > this.text.length) throw new Error(`a gap before ${event.offset}`);
      this.text = this.text.slice(0, event.offset) + event.text;
    } else this.ends.push(event);
    this.seq = event.seq ?? this.seq;
  };
}

/** A process of this machine that is no more. */
const GONE = { pid: 2 ** 22 + 1, host: hostname(), started: null };

describe("an answer", () => {
  it("is whole however its client is cut off and comes back, with one end (property)", async () => {
    const pieces = fc.array(fc.string({ minLength: 1, maxLength: 4 }), { maxLength: 8 });
    await fc.assert(
      fc.asyncProperty(
        pieces,
        fc.array(fc.nat(9), { maxLength: 4 }),
        fc.constantFrom("end", "length", "stop", "fail"),
        fc.boolean(),
        async (said, cuts, how, late) => {
          const next = source.started.length + 1;
          const { message_id } = await send("go");
          const answer = await source.next(next);
          const client = new Client();
          const all: AnswerEvent[] = [];
          await application.conversing.follow(ada, message_id, 0, (event) => all.push(event));
          const resume = () => application.conversing.follow(ada, message_id, client.seq, client.hear);
          let following = await resume();
          for (const [i, piece] of said.entries()) {
            if (cuts.includes(i)) following.unfollow();
            answer.say(piece);
            if (cuts.includes(i) && !(late && i === said.length - 1)) following = await resume();
          }
          if (late) following.unfollow();
          const text = said.join("").replaceAll("\0", "\ufffd");
          if (how === "fail") answer.fail(Object.assign(new Error("broken"), { code: "engine_error" }));
          else if (how === "stop") void application.conversing.stop(ada, message_id);
          else answer.end(how === "length" ? "length" : "stop");
          if (late) following = await resume();
          await following.ended;
          const ends = all.filter(({ type }) => type !== "chat.delta");
          expect(ends).toHaveLength(1);
          expect(all.at(-1)).toBe(ends[0]);
          expect([client.text, client.ends]).toEqual([text, ends]);
          const status = { end: "complete", length: "complete", stop: "stopped", fail: "error" }[how];
          const row = await application.chats(ada).message(message_id);
          expect([row.content, row.status, row.seq]).toEqual([text, status, ends[0]!.seq]);
          // And after its end, from every event on.
          for (let after = 0; after <= row.seq; after++) {
            const again = new Client();
            if (after > 0) again.text = text;
            await (await application.conversing.follow(ada, message_id, after, again.hear)).ended;
            expect([again.text, again.ends.length]).toEqual([text, after === row.seq ? 0 : 1]);
            if (again.ends.length > 0)
              expect(again.ends[0]).toMatchObject({ type: ends[0]!.type, seq: row.seq });
          }
        },
      ),
      { numRuns: 60 },
    );
  });

  it("is replayed from every event while it is written, without what came before", async () => {
    const next = source.started.length + 1;
    const { message_id } = await send("go");
    const answer = await source.next(next);
    const said = ["ab", "c", "def", "g"];
    for (const piece of said) answer.say(piece);
    for (let after = 0; after <= said.length; after++) {
      const events: AnswerEvent[] = [];
      (await application.conversing.follow(ada, message_id, after, (event) => events.push(event))).unfollow();
      const rest = said.slice(after).join("");
      const offset = said.slice(0, after).join("").length;
      expect(events).toEqual(
        rest === "" ? [] : [{ type: "chat.delta", message_id, seq: 4, offset, text: rest }],
      );
    }
    const ahead: AnswerEvent[] = [];
    await application.conversing.follow(ada, message_id, 99, (event) => ahead.push(event));
    expect(ahead[0]).toMatchObject({ offset: 0, text: "abcdefg", seq: 4 });
    await application.conversing.stop(ada, message_id);
    expect(answer.stopped).toBe(1);
    answer.say("too late");
    expect((await application.chats(ada).message(message_id)).content).toBe("abcdefg");
  });

  it("goes on without a client for a while, then is stopped and kept", async () => {
    const other = await scripted(path.join(folder, "detached.db"), { times: { detachedMs: 30, flushMs: 5 } });
    await other.application.users.ensure(ada);
    const { message_id } = await other.application.conversing.send(ada, { conversation_id: null, text: "a" });
    (await other.source.next(1)).say("half");
    const left = await other.application.conversing.follow(ada, message_id, 0, () => {});
    await new Promise((resolve) => setTimeout(resolve, 60));
    expect(other.application.conversing.running(ada)).toHaveLength(1); // somebody listens
    left.unfollow();
    await left.ended;
    expect(await other.application.chats(ada).message(message_id)).toMatchObject({
      status: "stopped",
      content: "half",
    });
    await other.application.close();
  });

  it("that the end of the server cut off is interrupted, found, and continued", async () => {
    const file = path.join(folder, "cut.db");
    const before = await scripted(file, { times: { flushMs: 1 } });
    await before.application.users.ensure(ada);
    const { message_id } = await before.application.conversing.send(ada, {
      conversation_id: null,
      text: "begin",
    });
    (await before.source.next(1)).say("once upon");
    await expect
      .poll(async () => (await before.application.chats(ada).message(message_id)).content)
      .toBe("once upon");
    // Killed: nothing more is written, and its process is gone.
    await before.store.run("UPDATE server_run SET owner = ?", [JSON.stringify(GONE)]);
    await before.store.close();
    const after = await scripted(file);
    const { conversing } = after.application;
    const cut = await after.application.chats(ada).message(message_id);
    expect(cut).toMatchObject({ status: "interrupted", content: "once upon" });
    expect((await after.application.chats(ada).search("upon", 5)).hits).toHaveLength(1);
    const client = new Client();
    await conversing.follow(ada, message_id, 1, client.hear);
    expect([client.text, client.ends]).toEqual([
      "once upon",
      [expect.objectContaining({ code: "interrupted" })],
    ]);
    const accepted = await conversing.continue(ada, message_id);
    expect(accepted.message_id).toBe(message_id);
    await expect(conversing.continue(ada, message_id)).rejects.toMatchObject({ status: 409 });
    const { ended } = await conversing.follow(ada, message_id, client.seq, client.hear);
    const answer = await after.source.next(1);
    expect(answer.request).toMatchObject({ continues: true });
    expect(answer.request.turns.at(-1)).toEqual({ role: "assistant", content: "once upon" });
    answer.say(" a time");
    answer.end();
    await ended;
    expect(client.text).toBe("once upon a time");
    expect(await after.application.chats(ada).message(message_id)).toMatchObject({
      ...{ status: "complete", content: "once upon a time", seq: client.seq },
    });
    await after.application.close();
  });

  it("that another server on the same store writes is left to it, until that one is gone", async () => {
    const file = path.join(folder, "shared.db");
    const one = await scripted(file, { times: { flushMs: 1 } });
    await one.application.users.ensure(ada);
    const { message_id } = await one.application.conversing.send(ada, { conversation_id: null, text: "x" });
    const status = async (from: typeof one) => (await from.application.chats(ada).message(message_id)).status;
    const two = await scripted(file);
    expect(await status(two)).toBe("streaming");
    // What a server of another machine says of itself, and when.
    const says = async (seenAt: number) => {
      const owner = JSON.stringify({ ...GONE, host: "elsewhere" });
      await two.store.run("UPDATE server_run SET owner = ?, seen_at = ?", [owner, seenAt]);
      await (await scripted(file)).application.close();
    };
    await says(Date.now());
    expect(await status(two)).toBe("streaming");
    await says(Date.now() - 61_000);
    expect(await status(two)).toBe("interrupted");
    // It was only slow: its end stands.
    const answer = await one.source.next(1);
    answer.say("late");
    answer.end();
    await expect.poll(() => status(two)).toBe("complete");
    await one.application.close();
    await two.application.close();
  });

  it("ends with an error and what there was where the row cannot be written", async () => {
    const broken = await scripted(path.join(folder, "full.db"), { times: { flushMs: 1 } });
    await broken.application.users.ensure(ada);
    const { message_id } = await broken.application.conversing.send(ada, {
      conversation_id: null,
      text: "a",
    });
    const client = new Client();
    const { ended } = await broken.application.conversing.follow(ada, message_id, 0, client.hear);
    broken.store.run = async () => {
      throw Object.assign(new Error("the disk is full"), { code: "disk_full" });
    };
    (await broken.source.next(1)).say("kept");
    await ended;
    expect(client.ends).toEqual([expect.objectContaining({ type: "chat.error", code: "disk_full" })]);
    expect(client.text).toBe("kept");
    await broken.application.close();
  });
});

describe("a conversation", () => {
  it("is a tree: siblings, branches, the leaf that is shown", async () => {
    const first = await answered("one", "1");
    const { conversation_id } = first;
    const second = await answered("two", "2", { conversation_id, parent_id: first.message_id });
    const beside = await answered("zwei", "II", { conversation_id, parent_id: first.message_id });
    const chats = application.chats(ada);
    const texts = async () =>
      (await chats.messages(conversation_id, 50, null)).messages.map(({ content }) => content);
    expect(await texts()).toEqual(["one", "1", "zwei", "II"]);
    const shown = (await chats.messages(conversation_id, 50, null)).messages;
    expect(shown[2]!.siblings).toEqual([second.user_message_id, beside.user_message_id]);
    expect((await chats.patch(conversation_id, { leaf_id: second.user_message_id })).leaf_id).toBe(
      second.message_id,
    );
    expect(await texts()).toEqual(["one", "1", "two", "2"]);
    const next = source.started.length + 1;
    const again = await application.conversing.regenerate(ada, second.message_id, { model: "other" });
    const answer = await source.next(next);
    expect(answer.request.turns.map(({ content }) => content)).toEqual(["one", "1", "two"]);
    answer.say("deux");
    await application.conversing.stop(ada, again.message_id);
    expect(await texts()).toEqual(["one", "1", "two", "deux"]);
    const edited = await chats.edit(first.user_message_id, "eins");
    expect(edited.siblings).toEqual([first.user_message_id, edited.id]);
    expect(await texts()).toEqual(["eins"]);
    expect(await chats.list(1, null)).toMatchObject({
      conversations: [{ id: conversation_id, title: "one" }],
    });
    // Where the client does not say after what, it is the end of what is shown.
    await answered("next", "n", { conversation_id });
    expect(await texts()).toEqual(["eins", "next", "n"]);
  });

  it("is sent once by one request_id, at once or after a new start", async () => {
    const request_id = newId();
    const next = source.started.length + 1;
    const [one, two] = await Promise.all([send("a", { request_id }), send("a", { request_id })]);
    expect(two).toEqual(one);
    (await source.next(next)).end();
    expect(source.started).toHaveLength(next);
    const fresh = await scripted(path.join(folder, "kiln.db"));
    expect(
      await fresh.application.conversing.send(ada, { conversation_id: null, text: "a", request_id }),
    ).toEqual(one);
    await store.run("UPDATE message SET created_at = 1 WHERE request_id = ?", [request_id]);
    await store.run("UPDATE message SET created_at = 1 WHERE parent_id = ?", [one.user_message_id]);
    await fresh.application.close();
    const anew = await scripted(path.join(folder, "kiln.db"));
    const later = await anew.application.conversing.send(ada, {
      ...{ conversation_id: null, text: "a", request_id },
    });
    expect(later.message_id).not.toBe(one.message_id);
    await anew.application.close();
  });

  it("is not answered twice at once, and refuses what is empty or unknown before anything is kept", async () => {
    const next = source.started.length + 1;
    const { conversation_id, message_id } = await send("a");
    const count = async () => (await store.all<{ n: number }>("SELECT count(*) AS n FROM message"))[0]!.n;
    const before = await count();
    for (const [more, status] of [
      [{ conversation_id }, 409],
      [{ conversation_id, parent_id: message_id }, 409],
      [{ conversation_id: newId() }, 404],
      [{ conversation_id, parent_id: newId() }, 404],
    ] as const)
      await expect(send("b", more)).rejects.toMatchObject({ status });
    await expect(send("")).rejects.toMatchObject({ status: 422 });
    expect(await count()).toBe(before);
    (await source.next(next)).end();
    await expect.poll(async () => (await application.chats(ada).get(conversation_id)).running).toBe(false);
  });

  it("keeps the system turn and whole exchanges; what was left out is counted", async () => {
    source.contextTokens = 40; // 30 for the history
    const system = "be brief";
    const { conversation_id } = await answered("a a a a", "b b b b", { system }); // 3 + 10
    await answered("c c c c", "d d d d", { conversation_id });
    const third = await answered("e e e e e", "f", { conversation_id });
    expect(third.trimmed).toEqual({ messages: 0, tokens: 0 }); // 3 + 20 + 6 = 29
    const fourth = await answered("g g", "h", { conversation_id });
    expect(fourth.trimmed).toEqual({ messages: 2, tokens: 10 });
    expect(source.started.at(-1)!.request.turns.map(({ content }) => content)).toEqual([
      ...["be brief", "c c c c", "d d d d", "e e e e e", "f", "g g"],
    ]);
    const { messages } = await application.chats(ada).messages(conversation_id, 1, null);
    expect(messages[0]!.trimmed).toEqual(fourth.trimmed);
    await expect(send("x ".repeat(40).trim(), { conversation_id })).rejects.toMatchObject({
      ...{ status: 400, code: "context_length_exceeded", message: expect.stringMatching(/44 tokens.* 40 /) },
    });
    source.contextTokens = 1000;
  });

  it("is deleted and taken back, searched, rated", async () => {
    const { conversation_id, message_id, user_message_id } = await answered(
      "where is the zebra",
      "in the zoo",
    );
    const chats = application.chats(ada);
    const found = async () => (await chats.search("zebra", 10)).hits.map((hit) => hit.message_id);
    expect(await found()).toEqual([user_message_id, null]);
    expect(await application.chats("local/ben").search("zebra", 10)).toEqual({ hits: [] });
    await chats.remove(conversation_id);
    expect(await found()).toEqual([]);
    await expect(chats.message(message_id)).rejects.toMatchObject({ status: 404 });
    await chats.patch(conversation_id, { deleted: false, title: "Animals", pinned: true });
    expect(await found()).toEqual([user_message_id]);
    await chats.rate({ message_id, rating: -1, reason: "incorrect", correction: "on the moon" });
    expect((await chats.message(message_id)).feedback).toMatchObject({
      rating: -1,
      correction: "on the moon",
    });
    await chats.rate({ message_id, rating: 0 });
    expect((await chats.message(message_id)).feedback).toBeNull();
    await expect(chats.rate({ message_id: user_message_id, rating: 1 })).rejects.toMatchObject({
      status: 409,
    });
  });

  it("of 5,000 messages is read by its end: 6 statements a page, 4 a send", async () => {
    const { id } = await application.chats(ada).create({});
    let parent: string | null = null;
    await store.transaction(async (tx) => {
      for (let i = 0; i < 5000; i++) {
        const message = newId();
        await tx.run(
          "INSERT INTO message (id, conversation_id, user_id, parent_id, role, content, status, created_at) VALUES (?, ?, ?, ?, ?, ?, 'complete', ?)",
          [message, id, ada, parent, i % 2 ? "assistant" : "user", "word ".repeat(20).trim(), i],
        );
        parent = message;
      }
      await tx.run("UPDATE conversation SET leaf_id = ? WHERE id = ?", [parent, id]);
    });
    const chats = application.chats(ada);
    const cost = async (work: () => Promise<unknown>) => {
      const before = store.statements;
      await work();
      return store.statements - before;
    };
    const page = async () => {
      await application.auth.principal({});
      await chats.list(50, null);
      expect((await chats.messages(id, 50, null)).messages).toHaveLength(50);
    };
    await page();
    expect(await cost(page)).toBeLessThanOrEqual(6);
    const next = source.started.length + 1;
    let accepted!: ChatAccepted;
    expect(
      await cost(async () => {
        accepted = await send("and now", { conversation_id: id });
      }),
    ).toBeLessThanOrEqual(4);
    expect(accepted.trimmed.messages + source.started[next - 1]!.request.turns.length).toBe(5001);
    expect(accepted.trimmed.messages).toBeGreaterThan(4900);
    (await source.next(next)).end();
    // All of it, page by page, each message once.
    const seen = new Set<string>();
    for (let before: string | null = null; ; ) {
      const some = await chats.messages(id, 500, before);
      for (const message of some.messages) seen.add(message.id);
      before = some.before;
      if (before === null) break;
    }
    expect(seen.size).toBe(5002);
  });

  it("tells all of the user's connections, and nobody else's", async () => {
    const heard: ServerEvent[] = [];
    const others: ServerEvent[] = [];
    const ends = [
      application.hub.listen(ada, (event) => heard.push(event)),
      application.hub.listen("local/ben", (event) => others.push(event)),
    ];
    await answered("a", "b");
    for (const end of ends) end();
    await answered("c", "d");
    expect(heard.map(({ type }) => type)).toEqual([
      "chat.accepted",
      "conversation.update",
      "chat.delta",
      "chat.done",
    ]);
    expect(others).toEqual([]);
  });
});

describe("who asks", () => {
  it("in multi: by a token that is kept as its hash, until it is revoked; user_id is not believed", async () => {
    const { Auth } = await import("../serve/app/auth.ts");
    const auth = new Auth(application.users, "multi");
    const cy = await application.users.add("cy", "member");
    const board = await application.users.add("board", "service");
    await expect(application.users.add("cy", "admin")).rejects.toMatchObject({ status: 409 });
    const key = await application.users.addKey(cy.id);
    const bearer = (token: string) => ({ authorization: `Bearer ${token}` });
    const principal = await auth.principal(bearer(key.token));
    expect(principal).toMatchObject({ id: cy.id, name: "cy", role: "member", mode: "multi" });
    expect(JSON.stringify(await store.all("SELECT * FROM api_key"))).not.toContain(key.token);
    await expect(auth.principal({})).rejects.toMatchObject({ status: 401 });
    await expect(auth.principal(bearer("kiln-wrong"))).rejects.toMatchObject({ status: 401 });
    expect(await auth.userFor(principal, "cy")).toBe(cy.id);
    await expect(auth.userFor(principal, "board")).rejects.toMatchObject({ status: 403 });
    const acting = await auth.principal(bearer((await application.users.addKey(board.id, ["act_as"])).token));
    expect(await auth.userFor(acting, "cy")).toBe(cy.id);
    await expect(auth.userFor(acting, "nobody")).rejects.toMatchObject({ status: 403 });
    const { cookie } = await auth.login(key.token);
    expect(cookie).toMatch(/^kiln_session=\S+; Path=\/; HttpOnly; SameSite=Strict/);
    const browser = await auth.principal({ cookie: cookie.split(";")[0] });
    expect(browser.id).toBe(cy.id);
    expect(await application.users.keys(cy.id)).toHaveLength(1);
    await auth.logout(browser);
    await expect(auth.principal({ cookie })).rejects.toMatchObject({ status: 401 });
    await application.users.revokeKey(cy.id, key.id);
    await expect(auth.principal(bearer(key.token))).rejects.toMatchObject({ status: 401 });
  });

  it("in single: local, whose user_id names a user below it", async () => {
    const principal = await application.auth.principal({});
    expect(principal).toMatchObject({ id: "local", mode: "single" });
    expect(await application.auth.userFor(principal, "12345")).toBe("local/12345");
    expect(await application.auth.userFor(principal, "local")).toBe("local");
    await expect(application.auth.userFor(principal, "../x")).rejects.toMatchObject({ status: 422 });
  });
});

it("the speed of an answer is that of its tokens after the first, where they came one after the other", () => {
  expect(tokensPerSecond(11, 50, 150)).toBe(100);
  expect(tokensPerSecond(12, 179.5, 179.7)).toBeNull(); // an ensemble's choice, which comes as a whole
  expect(tokensPerSecond(1, 50, 150)).toBeNull();
});
