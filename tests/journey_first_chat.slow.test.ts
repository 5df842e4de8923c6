import { execFile } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { promisify } from "node:util";
import type { Browser, Page } from "playwright-core";
import { afterAll, beforeAll, describe, expect, it, type TestContext } from "vitest";
import { launchChromium } from "./browser/chromium.ts";
import { axeFaults, type Opened, opened, see, until } from "./page/harness.ts";
import { fakeChatTokenizer, fakeTokenizer } from "./serve_fake.ts";
import { makeEndless, type ServeProcess, serveProcess, writeTinyModel } from "./support/serve_process.ts";

/** J1: the first chat of somebody who has a fresh clone. The models have random weights, everything else is what users run. */
const folder = mkdtempSync(path.join(tmpdir(), "kiln-first-"));
const models = ["demo", "talker"].map((name) => `${name}=${path.join(folder, name)}`);
let server: ServeProcess;
let browser: Browser | null = null;
let whyNot = "";
let open: Opened;
let page: Page;

beforeAll(async () => {
  process.env.KILN_DATA_DIR = path.join(folder, "data");
  delete process.env.DATABASE_URL;
  for (const [name, tokenizer] of [
    ["demo", fakeTokenizer()],
    ["talker", fakeChatTokenizer()],
  ] as const) {
    await writeTinyModel(path.join(folder, name), { tokenizer, context: 8192 });
    makeEndless(path.join(folder, name), tokenizer);
  }
  server = await serveProcess(models);
  browser = await launchChromium().catch((error: Error) => {
    whyNot = error.message.split("\n")[0]!;
    console.warn(`Skipped, no browser: ${whyNot}`);
    return null;
  });
  if (browser === null) return;
  const context = await browser.newContext({
    ...{ reducedMotion: "reduce", locale: "en-US", colorScheme: "light" },
    viewport: { width: 1280, height: 800 },
  });
  // An answer is as long as the context then, not as chance wants.
  await context.addInitScript('localStorage.setItem("kiln.params", JSON.stringify({ temperature: 0 }))');
  const [, address] = /open (\S+)\/ in a browser/.exec(server.output())!;
  open = await opened(context, address!, "");
  page = open.page;
});
afterAll(async () => {
  await browser?.close();
  server?.child.kill("SIGKILL");
  await server?.exited;
  rmSync(folder, { recursive: true, force: true });
});

const assistant = () => page.locator(".message.assistant").last();
const statusOf = () => assistant().getAttribute("data-status");
const textOf = async () => (await assistant().locator(".text").textContent()) ?? "";
const stopButton = () => page.getByRole("button", { name: "Stop" });
const sendButton = () => page.locator(".composer button[type=submit]");

/** Characters of random text that no later mark of Markdown makes others. */
const SAME = 12;

/** What the server has of a conversation. */
async function messagesOf(id: string): Promise<{ content: string }[]> {
  return (await (await fetch(`${server.url}/api/conversations/${id}/messages`)).json()).messages;
}

async function ask(text: string) {
  await page.fill("#composer", text);
  await sendButton().and(page.locator(":not([disabled])")).waitFor();
  await page.press("#composer", "Enter");
}

describe("J1: the first chat", () => {
  const step = (name: string, run: () => Promise<unknown>) =>
    it(name, async (test: TestContext) => {
      if (browser === null) test.skip(whyNot);
      await run();
    });

  step("the printed address shows a model, prompts that fit it, and where to write", async () => {
    await see(page, "Ask demo something");
    expect(await page.locator(".model-menu b").textContent()).toBe("demo");
    // This model has no chat template: what it is offered are beginnings to go on with.
    const examples = ["Once upon a time", "The little dog ran", "One day, a girl named Lily"];
    for (const example of examples) expect(await page.getByRole("button", { name: example }).count()).toBe(1);
    expect(await page.evaluate(() => document.activeElement?.id)).toBe("composer");
    await page.fill("#composer", "once upon a time");
    const body = JSON.stringify({ model: "demo", prompt: "once upon a time" });
    const headers = { "content-type": "application/json" };
    const { count } = await (await fetch(`${server.url}/tokenize`, { method: "POST", headers, body })).json();
    await see(page, `${count} / 8,192`);
    expect(await axeFaults(page)).toEqual([]);
  });

  step("the answer streams with a caret, and Stop stands where Send was", async () => {
    const before = await sendButton().boundingBox();
    await page.evaluate(() => {
      const seen: Record<string, number> = {};
      Object.assign(window, { seen });
      const watch = new MutationObserver(() => {
        for (const name of [".message.user", ".message.assistant .caret", ".message.assistant .text"])
          if (document.querySelector(name)) seen[name] ??= performance.now();
      });
      watch.observe(document.body, { childList: true, subtree: true });
      addEventListener("keydown", () => (seen.key ??= performance.now()), true);
    });
    await page.press("#composer", "Enter");
    await stopButton().waitFor();
    expect(await stopButton().boundingBox()).toEqual(before);
    expect(await sendButton().count()).toBe(0);
    await until(async () => (await textOf()).length > 20);
    expect(await statusOf()).toBe("streaming");
    const length = (await textOf()).length;
    await until(async () => (await textOf()).length > length);
    const seen = await page.evaluate(() => (window as never as { seen: Record<string, number> }).seen);
    const { key, ...shown } = seen;
    const times = Object.entries(shown).map(([name, at]) => `${name} ${Math.round(at - key!)} ms`);
    console.info(`after Enter: ${times.join(", ")}`);
    expect(seen[".message.assistant .caret"]).toBeLessThanOrEqual(seen[".message.assistant .text"]!);
    // The sidebar lists it while it runs.
    await page.locator(".sidebar").getByText("once upon a time").waitFor();
  });

  step("a reload in the middle shows the text so far and goes on", async () => {
    const before = await textOf();
    await page.reload();
    await until(async () => (await textOf()).length > before.length);
    expect((await textOf()).slice(0, SAME)).toBe(before.slice(0, SAME));
    expect(await statusOf()).toBe("streaming");
  });

  step("Stop ends it, the footer says how fast it was, and Send is back", async () => {
    await stopButton().click();
    await until(async () => (await statusOf()) === "stopped");
    const facts = await assistant().locator(".facts").textContent();
    expect(facts).toMatch(/^[\d,]+ tokens · [\d,]+ tok\/s · first token [\d,.]+ m?s$/);
    expect(await assistant().locator(".chip").textContent()).toBe("demo");
    await sendButton().waitFor();
    const text = await textOf();
    await page.reload();
    await until(async () => (await textOf()) === text);
  });

  step("another model in the middle: the next answer carries its name and colour", async () => {
    const first = await assistant().getAttribute("style");
    await page.locator(".model-menu > button").click();
    await page.getByRole("menuitemradio", { name: /talker/ }).click();
    await until(async () => (await page.locator(".model-menu b").textContent()) === "talker");
    await ask("and then");
    await until(async () => (await page.locator(".message.assistant").count()) === 2);
    expect(await assistant().locator(".chip").textContent()).toBe("talker");
    expect(await assistant().getAttribute("style")).not.toBe(first);
    expect(await page.locator(".message.assistant").first().locator(".chip").textContent()).toBe("demo");
    await until(async () => (await textOf()).length > 20);
  });

  step("without the server: a banner, the history, the draft; and with it again, Continue", async () => {
    await page.fill("#composer", "a draft");
    const port = Number(new URL(server.url).port);
    const [, id] = /#\/chat\/(.+)$/.exec(page.url())!;
    // The row is written twice a second.
    await until(async () => (await messagesOf(id!)).at(-1)!.content.length > 20);
    server.child.kill("SIGKILL");
    await server.exited;
    await see(page, /Connection lost/);
    const length = (await textOf()).length;
    expect(length).toBeGreaterThan(20);
    // What was read stays readable, also for who opens the page anew.
    await page.reload();
    await see(page, "and then");
    await page.locator(".sidebar").getByText("once upon a time").waitFor();
    expect(await page.inputValue("#composer")).toBe("a draft");
    await see(page, /Connection lost/);
    server = await serveProcess(models, port);
    await page.getByRole("button", { name: "Retry now" }).click();
    await see(page, "Interrupted before its end.");
    expect(await page.locator(".banner").count()).toBe(0);
    expect(await page.inputValue("#composer")).toBe("a draft");
    const kept = await textOf();
    expect(kept.length).toBeGreaterThan(0);
    await page.getByRole("button", { name: "Continue" }).click();
    await until(async () => (await textOf()).length > kept.length);
    expect((await textOf()).slice(0, SAME)).toBe(kept.slice(0, SAME));
    await stopButton().click();
    await until(async () => (await statusOf()) === "stopped");
  });

  step("the theme button goes from the system's to light to dark, and the page remembers", async () => {
    const background = () => page.evaluate(() => getComputedStyle(document.documentElement).backgroundColor);
    const light = await background();
    const button = page.getByRole("button", { name: /^Theme/ });
    await button.click();
    expect(await background()).toBe(light);
    await button.click();
    const dark = await background();
    expect(dark).not.toBe(light);
    await page.reload();
    expect(await background()).toBe(dark);
    await see(page, "and then");
    expect(await axeFaults(page)).toEqual([]);
    await page.getByRole("button", { name: /^Theme/ }).click();
    expect(await background()).toBe(light);
  });

  it("curl prints the same events", async () => {
    const body = '{"user_id":"local","query":"Once upon a time","stream":true,"params":{"max_tokens":8}}';
    const { stdout } = await promisify(execFile)("curl", ["-sN", `${server.url}/api/chat`, "-d", body]);
    const events = [...stdout.matchAll(/^data: (.*)$/gm)].map(([, data]) => JSON.parse(data!));
    expect(events.map(({ type }) => type)).toEqual([
      ...["chat.accepted", ...Array(events.length - 2).fill("chat.delta"), "chat.done"],
    ]);
    const text = events.map((event) => event.text ?? "").join("");
    expect((await messagesOf(events[0].conversation_id)).at(-1)!.content).toBe(text);
    if (browser === null) return;
    // The tab that is open hears of it.
    await page.locator(".sidebar").getByText("Once upon a time", { exact: true }).waitFor();
    const own = open.complaints.filter(
      (line) => !/ERR_CONNECTION_REFUSED|ERR_FAILED|WebSocket connection/.test(line),
    );
    expect(own).toEqual([]);
  });
});
