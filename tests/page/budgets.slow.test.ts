import type { Browser } from "playwright-core";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { newId } from "../../serve/store/index.ts";
import { launchChromium } from "../browser/chromium.ts";
import { type ChatServer, chatServer } from "../support/chat_server.ts";
import { opened, see } from "./harness.ts";

/** What the page costs a server that keeps conversations: statements of the store, counted by it. */
describe("the page on a server", () => {
  let server: ChatServer;
  let browser: Browser | null = null;
  let whyNot = "";
  let conversation = "";
  beforeAll(async () => {
    server = await chatServer("budgets", "single", { maxModelLen: 1024, blockCount: 2048 });
    const { store, chats } = await server.host
      .open()
      .then((app) => ({ store: app.store, chats: app.chats("local") }));
    await server.ask("GET", "/api/me");
    conversation = (await chats.create({ title: "long", model: "tiny/fake" })).id;
    let parent: string | null = null;
    await store.transaction(async (tx) => {
      for (let i = 0; i < 5000; i++) {
        const id = newId();
        await tx.run(
          "INSERT INTO message (id, conversation_id, user_id, parent_id, role, content, status, created_at) VALUES (?, ?, 'local', ?, ?, ?, 'complete', ?)",
          [id, conversation, parent, i % 2 ? "assistant" : "user", `number ${i} of many`, i],
        );
        parent = id;
      }
      await tx.run("UPDATE conversation SET leaf_id = ? WHERE id = ?", [parent, conversation]);
    });
    browser = await launchChromium().catch((error: Error) => {
      whyNot = error.message.split("\n")[0]!;
      return null;
    });
  });
  afterAll(async () => {
    await browser?.close();
    await server.server.close(0);
  });

  it("loads a conversation of 5,000 messages by 6 statements, its counter of tokens with them", async (test) => {
    if (browser === null) return test.skip(whyNot);
    const { store } = await server.host.open();
    const context = await browser.newContext({ reducedMotion: "reduce" });
    let loading = Number.POSITIVE_INFINITY;
    const seen: string[] = [];
    // The least of three loads: what the server does by the clock is counted as well where it falls into one.
    for (let load = 0; load < 3; load++) {
      const before = store.statements;
      const { page, complaints } = await opened(context, server.url, `#/chat/${conversation}`);
      await see(page, "number 4999 of many");
      // The last that it asks for.
      await see(page, /^[\d,]+ \/ 1,024$/);
      loading = Math.min(loading, store.statements - before);
      seen.push(...complaints);
      await page.close();
    }
    const times: number[] = [];
    for (let i = 0; i < 20; i++) {
      const from = performance.now();
      const { messages } = (await server.ask("GET", `/api/conversations/${conversation}/messages?limit=50`))
        .body;
      times.push(performance.now() - from);
      expect(messages).toHaveLength(50);
    }
    times.sort((a, b) => a - b);
    console.info(
      `first 50 of 5,000 messages: ${times[0]!.toFixed(1)} ms best, ${times[10]!.toFixed(1)} median; ${loading} statements to load`,
    );
    expect(loading).toBeLessThanOrEqual(6);
    expect(seen).toEqual([]);
  });
});
