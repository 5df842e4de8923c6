import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Notices } from "../serve/app/notices.ts";
import { NoticeClient, NoticeError } from "../serve/page/notices/client.ts";
import { Outbox, type Waiting } from "../serve/page/notices/outbox.ts";
import { memoryShelf } from "../serve/page/notices/shelf.ts";
import { type ChatServer, chatServer } from "./support/chat_server.ts";

let server: ChatServer;
const tokens: Record<string, string> = {};
const as = (name: string) => new NoticeClient({ url: server.url, token: tokens[name]! });
const refused = (status: number) => expect.objectContaining({ name: "NoticeError", status });
beforeAll(async () => {
  server = await chatServer("notices", "multi", { maxModelLen: 2048, blockCount: 1024 });
  const { users } = await server.host.open();
  for (const name of ["eve", "cy", "dee"]) {
    const { id } = await users.add(name, name === "eve" ? "admin" : "member");
    tokens[name] = (await users.addKey(id)).token;
    if (name === "eve") tokens.back_end = (await users.addKey(id, ["act_as"])).token;
  }
});
afterAll(() => server.server.close(0));

const hours = { title: "Opening hours", body: "The garden shop opens at **nine** on weekdays." };

describe("the board", () => {
  it("is read by all, and changed by authors and admins", async () => {
    const { id } = await as("cy").post(hours);
    const other = await as("dee").post({ title: "Picnic", body: "Bring cake.", pinned: true });
    const seen = await as("dee").list();
    expect(
      seen.notices.map(({ title, author, editable, pinned }) => [title, author, editable, pinned]),
    ).toEqual([
      ["Picnic", "dee", true, true],
      ["Opening hours", "cy", false, false],
    ]);
    await expect(as("dee").change(id, { pinned: true })).rejects.toEqual(refused(403));
    await expect(as("dee").remove(id)).rejects.toEqual(refused(403));
    await expect(as("dee").attach(id, "x.txt", new Blob(["x"]))).rejects.toEqual(refused(403));
    await expect(as("dee").remove("none")).rejects.toEqual(refused(404));
    expect(await as("eve").change(other.id, { pinned: false, title: "Picnic on Sunday" })).toMatchObject({
      ...{ title: "Picnic on Sunday", author: "dee", pinned: false, body: "Bring cake." },
    });
    // Who saves what another has changed since is told, and nothing is lost.
    await expect(as("dee").change(other.id, { body: "No cake.", updated_at: 1 })).rejects.toEqual(
      refused(409),
    );
    const { updated_at, body } = await as("dee").get(other.id);
    expect([body, (await as("dee").change(other.id, { body: "Tea.", updated_at })).body]).toEqual([
      "Bring cake.",
      "Tea.",
    ]);
    await as("eve").remove(other.id);
    const left = await as("dee").list();
    expect(left).toMatchObject({ notices: [{ id, ...hours }], next: null });
    await as("cy").remove(id);
  });

  it("comes in pages, none twice and none left out", async () => {
    const posted: string[] = [];
    for (let i = 0; i < 7; i++)
      posted.push((await as("cy").post({ title: `number ${i}`, body: "", pinned: i % 3 === 0 })).id);
    const seen: string[] = [];
    for (let before: string | null | undefined = ""; before != null; ) {
      const { body } = await server.ask("GET", `/api/notices?limit=2&before=${before || "2_"}`, undefined, {
        authorization: `Bearer ${tokens.dee}`,
      });
      seen.push(...body.notices.map(({ title }: { title: string }) => title));
      before = body.next;
    }
    expect(seen).toEqual([6, 3, 0, 5, 4, 2, 1].map((i) => `number ${i}`));
    for (const id of posted) await as("cy").remove(id);
    const wrong = await server.ask("GET", "/api/notices?before=x", undefined, {
      authorization: `Bearer ${tokens.dee}`,
    });
    expect([wrong.status, wrong.body.error.param]).toEqual([422, "before"]);
  });

  it("refuses what is no notice in a line", async () => {
    for (const [bad, param] of [
      [{ title: " ", body: "" }, "title"],
      [{ title: "two\nlines", body: "" }, "title"],
      [{ title: "x".repeat(201), body: "" }, "title"],
      [{ title: "x", body: "x".repeat(20_001) }, "body"],
      [{ title: "x", body: "", pined: true }, "pined"],
    ] as const) {
      const { status, body } = await server.ask("POST", "/api/notices", bad, {
        authorization: `Bearer ${tokens.cy}`,
      });
      expect([status, body.error.param, body.error.message.includes("\n")]).toEqual([422, param, false]);
    }
  });

  it("takes notices of a program that acts for its users, with the rights of each", async () => {
    const forCy = new NoticeClient({ url: server.url, token: tokens.back_end!, user: "cy" });
    const notice = await forCy.post({ ...hours, request_id: "from the back end" });
    expect(notice).toMatchObject({ author: "cy", editable: true });
    expect((await forCy.me()).name).toBe("eve");
    const forDee = new NoticeClient({ url: server.url, token: tokens.back_end!, user: "dee" });
    await expect(forDee.remove(notice.id)).rejects.toEqual(refused(403));
    for (const token of [tokens.dee!, tokens.eve!])
      await expect(new NoticeClient({ url: server.url, token, user: "cy" }).post(hours)).rejects.toEqual(
        refused(403),
      );
    const nobody = new NoticeClient({ url: server.url, token: tokens.back_end!, user: "nobody" });
    await expect(nobody.post(hours)).rejects.toEqual(refused(403));
    await forCy.remove(notice.id);
    await expect(new NoticeClient({ url: "http://127.0.0.1:1" }).list()).rejects.toEqual(refused(0));
  });
});

describe("what notices say", () => {
  const found = async (name: string, query: string) => {
    const { body } = await server.ask(
      "POST",
      "/api/retrieve",
      { query },
      { authorization: `Bearer ${tokens[name]}` },
    );
    return body.answered ? (body.passages[0] as { text: string; document_id: string; name: string }) : null;
  };

  it("is found by everybody's questions, files too, as long as it is there", async () => {
    const { id } = await as("cy").post(hours);
    expect(await found("dee", "When does the garden shop open?")).toMatchObject({ name: "Opening hours.md" });
    await as("cy").change(id, { body: "The garden shop opens at **ten**." });
    expect((await found("dee", "When does the garden shop open?"))!.text).toContain("ten");
    const file = new Blob(["The canteen serves lentil soup every Thursday."]);
    const attached = await as("cy").attach(id, "canteen.txt", file);
    expect((await as("cy").attach(id, "again.txt", file)).id).toBe(attached.id);
    await expect
      .poll(async () => (await as("dee").list()).notices[0]!.documents, { timeout: 20_000 })
      .toEqual([{ id: attached.id, name: "canteen.txt", bytes: 46, state: "ready", reason: null }]);
    expect(await found("dee", "When is there lentil soup?")).toMatchObject({ document_id: attached.id });
    const own = { authorization: `Bearer ${tokens.dee}` };
    const bytes = await server.ask("GET", `/api/documents/${attached.id}/content`, undefined, own);
    expect([bytes.status, bytes.text]).toEqual([200, "The canteen serves lentil soup every Thursday."]);
    expect((await server.ask("DELETE", `/api/documents/${attached.id}`, undefined, own)).status).toBe(404);
    expect((await server.ask("GET", "/api/documents", undefined, own)).body.documents).toEqual([]);
    await as("cy").remove(id);
    expect([
      await found("dee", "lentil soup"),
      await found("dee", "When does the garden shop open?"),
    ]).toEqual([...[null, null]]);
    expect((await server.ask("GET", `/api/documents/${attached.id}`, undefined, own)).status).toBe(404);
  });

  it("answers what is asked about one, from that one alone, to the end of the conversation", async () => {
    const { id } = await as("cy").post(hours);
    const other = await as("cy").post({ title: "Bakery", body: "The bakery opens at six on weekdays." });
    const own = { authorization: `Bearer ${tokens.dee}` };
    const ask = (query: string, more: object) =>
      server.ask("POST", "/api/chat", { user_id: "dee", query, params: { max_tokens: 2 }, ...more }, own);
    const first = (await ask("When does it open on weekdays?", { notice_id: id, retrieve: "off" })).body;
    const cited = (body: { citations: { name: string }[] }) =>
      new Set(body.citations.map(({ name }) => name));
    expect(cited(first)).toEqual(new Set(["Opening hours.md"]));
    const { conversation_id } = first;
    const next = await ask("Sum it up.", { conversation_id });
    expect(cited(next.body)).toEqual(new Set(["Opening hours.md"]));
    expect(
      (await server.ask("GET", `/api/conversations/${conversation_id}`, undefined, own)).body.notice_id,
    ).toBe(id);
    const { messages } = (
      await server.ask("GET", `/api/conversations/${conversation_id}/messages`, undefined, own)
    ).body;
    expect(messages[1].citations[0]).toMatchObject({ name: "Opening hours.md", n: 1 });
    await as("cy").remove(id);
    await as("cy").remove(other.id);
    const gone = (await ask("When does it open?", { conversation_id })).body;
    expect(gone.citations).toEqual([]);
  });

  it("goes with a person's data, which counts it, and comes along in a file", async () => {
    await as("dee").post(hours);
    const kept = await as("cy").post({ title: "Stays", body: "walrus" });
    const own = { authorization: `Bearer ${tokens.dee}` };
    const file = await server.ask("GET", "/api/me/notices", undefined, own);
    expect(file.body.notices).toMatchObject([hours]);
    const { deleted } = (await server.ask("DELETE", "/api/me/data", undefined, own)).body;
    // One was deleted before: that it was posted was remembered until now.
    expect(deleted).toMatchObject({ notice: 2, document: 1, blob: 1 });
    expect((await as("cy").list()).notices.map(({ id }) => id)).toEqual([kept.id]);
    expect(await found("cy", "When does the garden shop open?")).toBeNull();
    await as("cy").remove(kept.id);
  });
});

describe("a notice that is sent again", () => {
  it("is the same one, however many send it at once, and is not there again once it was deleted", async () => {
    const notice = { ...hours, request_id: "once" };
    const sent = await Promise.all(Array.from({ length: 5 }, () => as("cy").post(notice)));
    expect(new Set(sent.map(({ id }) => id)).size).toBe(1);
    // The name is its author's: another's is another notice.
    const other = await as("dee").post(notice);
    expect((await as("dee").list()).notices).toHaveLength(2);
    await as("cy").remove(sent[0]!.id);
    await as("dee").remove(other.id);
    await expect(as("cy").post(notice)).rejects.toEqual(refused(410));
    expect((await as("cy").list()).notices).toEqual([]);
  });

  /** What is lost of one request. */
  const loss = fc.constantFrom("nothing", "nothing", "request", "response");
  const step = fc.record({
    write: fc.nat(2),
    tabs: fc.integer({ min: 1, max: 2 }),
    losses: fc.array(loss, { maxLength: 4 }),
  });

  it("is on the board once with its files, whatever is lost, from however many tabs", async () => {
    const { store, documents, users } = await server.host.open();
    const { id: author } = await users.find("cy");
    const board = new Notices(store, documents, { id: author, isAdmin: false });
    let round = 0;
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 1, maxLength: 4 }), async (steps) => {
        const run = ++round;
        const shelf = memoryShelf<Waiting>();
        const attached: string[] = [];
        const lossy = (losses: string[]) => {
          const over = async <T>(work: () => Promise<T>): Promise<T> => {
            const lost = losses.shift() ?? "nothing";
            if (lost === "request") throw new NoticeError(0, lost);
            const answer = await work();
            if (lost === "response") throw new NoticeError(0, lost);
            return answer;
          };
          return {
            post: (notice: Parameters<Notices["post"]>[0]) =>
              over(async () => (await board.post(notice)).notice),
            attach: (id: string, name: string) =>
              over(async () => {
                if (!attached.includes(`${id} ${name}`)) attached.push(`${id} ${name}`);
                return {} as never;
              }),
          };
        };
        const written: string[] = [];
        for (const { write, tabs, losses } of [...steps, { write: 0, tabs: 1, losses: [] }]) {
          for (let i = 0; i < write; i++) {
            const request_id = `${run} ${written.length}`;
            written.push(request_id);
            const files = [{ name: "a.txt", content: new Blob(["a"]) }];
            await new Outbox(shelf).add({
              ...{ request_id, author, title: request_id, body: "", pinned: false, files, refused: null },
              written_at: written.length,
            });
          }
          const rest = [...losses];
          await Promise.all(Array.from({ length: tabs }, () => new Outbox(shelf).send(lossy(rest), author)));
        }
        expect(await shelf.all()).toEqual([]);
        const { notices } = await board.list(200, null);
        expect(notices.map(({ title }) => title).sort()).toEqual([...written].sort());
        expect(attached.sort()).toEqual(notices.map(({ id }) => `${id} a.txt`).sort());
        for (const { id } of notices) await board.remove(id);
      }),
      { numRuns: 25 },
    );
  });

  it("waits where its author is not the one who is signed in, and stays with the reason where it is refused", async () => {
    const shelf = memoryShelf<Waiting>();
    const outbox = new Outbox(shelf);
    const waiting = { body: "", pinned: false, files: [], written_at: 1, refused: null };
    await outbox.add({ ...waiting, request_id: "of dee", author: "dee", title: "Hers" });
    await outbox.add({ ...waiting, request_id: "too long", author: "cy", title: "x".repeat(300) });
    expect(await outbox.send(as("cy"), "cy")).toBe(true);
    expect((await as("cy").list()).notices).toEqual([]);
    expect(await outbox.of("cy")).toMatchObject([
      { request_id: "too long", refused: expect.stringMatching(/title/) },
    ]);
    expect(await outbox.of("dee")).toMatchObject([{ refused: null }]);
    for (const status of [0, 401, 429, 500, 503]) {
      const post = () => Promise.reject(new NoticeError(status, "later"));
      expect(await outbox.send({ post, attach: post }, "dee")).toBe(false);
    }
    expect(await outbox.of("dee")).toMatchObject([{ refused: null }]);
  });
});
