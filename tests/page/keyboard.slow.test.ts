import { describe, expect, it } from "vitest";
import { opened, pageTests, say, see, until } from "./harness.ts";

const { state, open } = pageTests();

describe("the keyboard", () => {
  it("does everything that the list of shortcuts says", async (test) => {
    const { server } = state;
    server.reply = (text) =>
      text === "hold" ? { pieces: ["a "], hold: true } : { pieces: [`You said: ${text}.`] };
    const { page } = await open(test, "", { permissions: ["clipboard-read", "clipboard-write"] });
    const focused = () =>
      page.evaluate(() => document.activeElement?.id || document.activeElement?.getAttribute("aria-label"));
    await say(page, "one");
    await see(page, "You said: one.");
    expect(await focused()).toBe("composer");
    await page.keyboard.type("two");
    await page.keyboard.press("Shift+Enter");
    await page.keyboard.type("lines");
    expect(await page.inputValue("#composer")).toBe("two\nlines");
    await page.keyboard.press("Enter");
    await see(page, /You said: two\s+lines\./);
    await page.keyboard.press("ArrowUp");
    await until(async () => (await focused()) === "Edit the message");
    await page.keyboard.press("Escape");
    await until(async () => (await focused()) === "composer");
    await say(page, "hold");
    await page.keyboard.press("Escape");
    await see(page, "Stopped.");
    await page.keyboard.press("Control+/");
    await see(page, "Keyboard shortcuts");
    await page.keyboard.press("Escape");
    await until(async () => (await focused()) === "composer");
    await page.locator(".log").focus();
    await page.keyboard.press("k");
    await page.keyboard.press("k");
    await page.keyboard.press("k");
    expect(await focused()).toBe("Answer");
    await page.keyboard.press("c");
    expect(await page.evaluate(() => navigator.clipboard.readText())).toBe("You said: two\nlines.");
    await page.keyboard.press("j");
    expect(await focused()).toBe("Your message");
    await page.keyboard.press("k");
    await page.keyboard.press("r");
    await until(() => server.requests.some(({ path }) => path.endsWith("/regenerate")));
    await page.keyboard.press("Control+k");
    await page.getByRole("combobox").fill("two");
    await page.getByRole("option", { name: /two/ }).first().waitFor();
    await page.keyboard.press("ArrowDown");
    await page.keyboard.press("Enter");
    await until(async () => (await page.getByRole("dialog").count()) === 0);
    await page.keyboard.press("Control+Shift+o");
    await see(page, "Ask demo something");
    await until(async () => (await focused()) === "composer");
  });

  it("takes back a dialog that is still being fetched", async (test) => {
    const { page } = await open(test, "", { serviceWorkers: "block" });
    await say(page, "hello");
    await see(page, "You said: hello");
    let fetched: () => void = () => {};
    const held = new Promise<void>((resolve) => {
      fetched = resolve;
    });
    await page.route("**/*.js", (route) => held.then(() => route.continue()));
    await page.getByRole("button", { name: "Why these words" }).click();
    await page.keyboard.press("Escape");
    await page.keyboard.press("Control+k");
    await page.keyboard.press("Escape");
    fetched();
    await page.keyboard.press("Control+/");
    await see(page, "Keyboard shortcuts");
    expect(await page.getByRole("dialog").count()).toBe(1);
  });

  it("reaches all of the page by Tab, from a link that skips the sidebar", async (test) => {
    const { page } = await open(test);
    await see(page, "Ask demo something");
    const first = page.locator("a, button, input, textarea, [tabindex='0']").first();
    expect(await first.textContent()).toBe("Skip to the content");
    await first.focus();
    await page.keyboard.press("Enter");
    expect(await page.evaluate(() => document.activeElement?.id)).toBe("main");
  });

  it("hears an answer in whole sentences, not token by token", async (test) => {
    const { server } = state;
    const sentence = (n: number) =>
      `The little dragon went to the ${n}. red castle and asked the old king for a piece of bread and some water. `;
    const text = [1, 2, 3, 4].map(sentence).join("");
    server.reply = () => ({ pieces: text.match(/\S+ /g)!, gapMs: 2 });
    const { page } = await open(test);
    await page.evaluate(() => {
      const said: string[] = [];
      Object.assign(window, { said });
      new MutationObserver(() => {
        const text = document.querySelector("[aria-live=polite]")?.textContent ?? "";
        if (text && said.at(-1) !== text) said.push(text);
      }).observe(document.body, { subtree: true, childList: true, characterData: true });
    });
    await say(page, "go");
    await see(page, /first token/);
    await until(async () => (await page.locator("[aria-live=polite]").textContent())?.includes("4. red"));
    const said = await page.evaluate(() => (window as never as { said: string[] }).said);
    expect(said.join("")).toBe(text);
    expect(said.length).toBeLessThanOrEqual(4);
    expect(await page.locator(".log").getAttribute("aria-busy")).toBe("false");
  });
});

describe("without the server", () => {
  it("opens with what was read last, and keeps at most 50 conversations and no writes", async (test) => {
    const { server } = state;
    const all = Array.from({ length: 52 }, (_, i) => {
      const conversation = server.addConversation({ title: `Title ${i}` });
      server.addTurn(conversation, `question ${i}`, `answer ${i}`);
      return conversation;
    });
    const { page, context } = await open(test);
    await page.evaluate(() => navigator.serviceWorker.ready);
    await page.reload();
    await see(page, "Ask demo something");
    for (const [i, { id }] of all.entries()) {
      await page.evaluate((hash) => location.replace(hash), `#/chat/${id}`);
      await see(page, new RegExp(`^answer ${i}$`));
    }
    await say(page, "hello");
    await see(page, "You said: hello");
    const kept = await page.evaluate(async () => {
      const requests = await (await caches.open("kiln-data")).keys();
      return requests.map(({ method, url }) => `${method} ${new URL(url).pathname}`);
    });
    expect(kept.filter((entry) => entry.endsWith("/messages"))).toHaveLength(50);
    for (const entry of kept) expect(entry).toMatch(/^GET \/api\/(me|models|conversations.*)$/);
    await server.close();
    const { page: later } = await opened(context, server.url, `#/chat/${all[51].id}`);
    await see(later, "answer 51");
    await see(later, "Title 20");
    await see(later, /Connection lost/);
    await later.evaluate((hash) => location.replace(hash), `#/chat/${all[40].id}`);
    await see(later, /^answer 40$/);
    expect(await later.getByRole("button", { name: "Send", exact: true }).isDisabled()).toBe(true);
  });
});
