import { readFileSync } from "node:fs";
import type { Browser, BrowserContextOptions } from "playwright-core";
import { afterAll, beforeAll, expect, it } from "vitest";
import { launchChromium } from "../browser/chromium.ts";
import { type ChatServer, chatServer } from "../support/chat_server.ts";
import { opened, say, see, until } from "./harness.ts";

/** What is a person's own, by the page of a real server: choices, and conversations to take along, to bring and to remove. */
let server: ChatServer;
let browser: Browser | null = null;
let whyNot = "";
beforeAll(async () => {
  server = await chatServer("own", "single", { maxModelLen: 256, blockCount: 512 });
  browser = await launchChromium().catch((error: Error) => {
    whyNot = error.message.split("\n")[0]!;
    return null;
  });
});
afterAll(async () => {
  await browser?.close();
  await server.server.close(0);
});

const settings: BrowserContextOptions = { reducedMotion: "reduce", locale: "en-US", colorScheme: "light" };
const chats = async () => (await server.ask("GET", "/api/conversations")).body.conversations;

it("follows a person from browser to browser, to a file and back, and goes at a word", async (test) => {
  if (browser === null) return test.skip(whyNot);
  const one = await opened(await browser.newContext(settings), server.url, "");
  await one.page.locator("#composer").waitFor();
  await one.page.getByRole("button", { name: "Parameters" }).click();
  await one.page.getByLabel("Longest answer").fill("8");
  await one.page.keyboard.press("Escape");
  await say(one.page, "once upon a time");
  await until(async () => (await chats())[0]?.running === false);
  await one.page.goto(`${server.url}/#/settings`);
  await one.page.getByRole("radio", { name: "dark" }).click();
  const kept = async () => (await server.ask("GET", "/api/me")).body.settings;
  await until(async () => (await kept()).theme === "dark" && (await kept()).params.max_tokens === 8);

  const two = await opened(await browser.newContext(settings), server.url, "#/settings");
  await until(() => two.page.evaluate(() => document.documentElement.dataset.theme === "dark"));
  const download = two.page.waitForEvent("download");
  await two.page.getByRole("link", { name: "Export conversations" }).click();
  const file = await (await download).path();
  const [line, ...more] = readFileSync(file, "utf8").trim().split("\n");
  expect(more).toEqual([]);
  const { messages } = JSON.parse(line!);
  expect(messages[0]).toEqual({ role: "user", content: "once upon a time" });

  await two.page.getByRole("button", { name: "Delete my data" }).click();
  await two.page.getByLabel(/Type/).fill("delete");
  await two.page.getByRole("dialog").getByRole("button", { name: "Delete my data" }).click();
  await see(two.page, /^Deleted \d+ rows\.$/);
  expect(await chats()).toEqual([]);
  await see(two.page, "Conversations appear here.");

  const faulty = '{"messages":[{"role":"user","content":"Alone?"}]}';
  await two.page
    .getByLabel("Import conversations")
    .last()
    .setInputFiles({
      ...{ name: "mine.jsonl", mimeType: "application/jsonl" },
      buffer: Buffer.from(`${line}\n${faulty}\n`),
    });
  await see(two.page, "1 conversation imported, 1 row left out.");
  await see(two.page, "there is no turn of the assistant");
  const [back] = await chats();
  await two.page.goto(`${server.url}/#/chat/${back.id}`);
  await see(two.page, "once upon a time");
  const again = (await server.ask("GET", `/api/conversations/${back.id}/messages`)).body.messages;
  expect(again.map(({ content }: { content: string }) => content)).toEqual(
    messages.map(({ content }: { content: string }) => content),
  );
  expect([...one.complaints, ...two.complaints]).toEqual([]);
}, 120_000);
