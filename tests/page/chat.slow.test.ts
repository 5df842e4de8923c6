import { describe, expect, it } from "vitest";
import { demo } from "./fake_history.ts";
import { opened, pageTests, say, see, until } from "./harness.ts";

const { state, open } = pageTests();
const long = (count: number) => Array.from({ length: count }, (_, i) => `word${i} `);

describe("a chat", () => {
  it("comes back by itself after the connection was lost, with every word once", async (test) => {
    const { server } = state;
    server.reply = () => ({ pieces: long(50), gapMs: 30 });
    const { page } = await open(test);
    await say(page, "go");
    await see(page, "word4");
    server.drop();
    await see(page, /Connection lost, retrying in/);
    await page.fill("#composer", "a draft");
    await see(page, "word49");
    await until(async () => (await page.locator(".banner").count()) === 0);
    expect((await page.locator(".text").textContent())!.trim()).toBe(long(50).join("").trim());
    expect(await page.inputValue("#composer")).toBe("a draft");
  });

  it("shows nothing but the answer, though frames overlap and some are lost", async (test) => {
    const { server } = state;
    server.stutter = true;
    server.reply = () => ({ pieces: long(60), gapMs: 30 });
    const { page } = await open(test);
    await page.evaluate(() => {
      const seen = new Set<string>();
      Object.assign(window, { seen });
      new MutationObserver(() =>
        seen.add(document.querySelector(".text")?.textContent?.trim() ?? ""),
      ).observe(document.body, { subtree: true, childList: true, characterData: true });
    });
    await say(page, "go");
    await see(page, "word59");
    await see(page, /first token/);
    const whole = long(60).join("").trim();
    const seen = await page.evaluate(() => [...(window as never as { seen: Set<string> }).seen]);
    expect(seen.length).toBeGreaterThan(10);
    for (const text of seen) expect(whole.startsWith(text), text).toBe(true);
    expect(seen.at(-1)).toBe(whole);
    expect(server.events.filter(({ type }) => type === "chat.resume").length).toBeLessThan(40);
  });

  it("shows in a second tab what the first one does", async (test) => {
    const { server } = state;
    const { page, context } = await open(test);
    await say(page, "first");
    await see(page, "You said: first");
    const second = await opened(context, server.url, new URL(page.url()).hash);
    await see(second.page, "You said: first");
    await say(page, "second");
    await see(second.page, "You said: second");
    expect(await second.page.locator(".message").count()).toBe(4);
  });

  it("stops at once, and what was written stays a message to go on from", async (test) => {
    const { server } = state;
    server.reply = (text) => (text === "go" ? { pieces: long(5), hold: true } : { pieces: ["Fine."] });
    const { page } = await open(test);
    await say(page, "go");
    await see(page, "word4");
    await page.getByRole("button", { name: "Stop", exact: true }).click();
    await see(page, "Stopped.");
    await say(page, "next");
    await see(page, "Fine.");
    expect(await page.locator(".message").count()).toBe(4);
    const sends = server.events.filter((event) => event.type === "chat.send");
    expect(sends[1].parent_id).toBe([...server.messages.values()][1].id);
  });

  it("stops what the server has not begun yet", async (test) => {
    const { server } = state;
    server.reply = () => ({ pieces: ["a "], hold: true });
    const { page } = await open(test);
    await page.fill("#composer", "hold");
    await page.locator(".composer button[type=submit]:not([disabled])").waitFor();
    // Within one task: nothing can have come back.
    await page.evaluate(() => {
      document.querySelector<HTMLFormElement>("form.composer")!.requestSubmit();
      document.dispatchEvent(new KeyboardEvent("keydown", { key: "Escape" }));
    });
    await see(page, "Stopped.");
  });

  it("keeps every branch: regenerate, edit, and back", async (test) => {
    const { server } = state;
    let count = 0;
    server.reply = (text) => ({ pieces: [`Answer ${++count} to ${text}.`] });
    const { page } = await open(test);
    await say(page, "one");
    await see(page, "Answer 1 to one.");
    await page.getByRole("button", { name: "Regenerate" }).click();
    await see(page, "Answer 2 to one.");
    await see(page, "2/2");
    await page.getByRole("button", { name: "Previous version" }).click();
    await see(page, "Answer 1 to one.");
    await page.getByRole("button", { name: "Edit the message" }).click();
    await page.getByRole("textbox", { name: "Edit the message" }).fill("two");
    await page.keyboard.press("Enter");
    await see(page, "Answer 3 to two.");
    await until(async () => (await page.locator(".user .branches").textContent()) === "2/2");
    await page.locator(".user").getByRole("button", { name: "Previous version" }).click();
    // The newest answer below that question.
    await see(page, "Answer 2 to one.");
  });

  it("takes thumbs with a reason and a better answer, and takes them back", async (test) => {
    const { server } = state;
    const { page } = await open(test);
    await say(page, "hi");
    await page.getByRole("button", { name: "Bad answer" }).click();
    await page.getByRole("radio", { name: "Off topic" }).check();
    await page.getByRole("textbox", { name: /A better answer/ }).fill("Hello!");
    await page.getByRole("dialog").getByRole("button", { name: "Send", exact: true }).click();
    const answer = [...server.messages.values()][1];
    await until(() => answer.feedback?.correction === "Hello!");
    expect(answer.feedback).toMatchObject({ rating: -1, reason: "off_topic" });
    await page.getByRole("button", { name: "Good answer" }).click();
    await until(() => answer.feedback?.rating === 1);
    await page.getByRole("button", { name: "Good answer", pressed: true }).click();
    await until(() => answer.feedback === null);
  });

  it("says what went wrong, and tries again or with another model", async (test) => {
    const { server } = state;
    server.reply = (_text, model) =>
      model === "demo"
        ? {
            pieces: ["Half "],
            error: { code: "engine_error", message: "The device is lost.", retryable: true },
          }
        : {
            pieces: ["Whole."],
            provider: "hub",
            notice: { kind: "fallback", from: "demo", to: model, reason: "429" },
          };
    const { page } = await open(test);
    await say(page, "hi");
    await see(page, "The device is lost.");
    await see(page, "engine_error");
    await page.getByRole("button", { name: "Try again" }).click();
    await until(() => [...server.messages.values()].length === 3);
    await page.getByRole("combobox", { name: "Switch model" }).selectOption("stories");
    await see(page, "Whole.");
    await see(page, "answered by hub");
    await see(page, "instead of demo: 429");
    await see(page, "cost unknown");
  });

  it("says when a message was refused, and keeps it to be sent again", async (test) => {
    const { server } = state;
    const refusal = { code: "queue_full", message: "Too many wait already.", retryable: true };
    server.reply = () => ({ refuse: refusal });
    const { page } = await open(test);
    await say(page, "hi");
    await see(page, "Too many wait already.");
    server.reply = (text) => ({ pieces: [`You said: ${text}`] });
    await page.getByRole("button", { name: "Try again" }).click();
    await see(page, "You said: hi");
    expect(await page.locator(".message").count()).toBe(2);
  });

  it("works over plain requests where no WebSocket gets through", async (test) => {
    const { server } = state;
    server.refuseSockets = true;
    server.reply = () => ({ pieces: long(5), gapMs: 10 });
    const { page } = await open(test);
    await until(
      async () => (await page.locator(".banner").count()) === 0 && (await page.locator("h2").count()) > 0,
    );
    await see(page, "Ask demo something");
    await say(page, "hi");
    await see(page, "word4");
    await see(page, /first token/);
  });

  it("asks to reload when the server is newer, and keeps the draft", async (test) => {
    const { server } = state;
    const { page } = await open(test);
    await page.fill("#composer", "a draft");
    server.protocol = "kiln.chat.v2";
    server.drop();
    await see(page, /The server has been updated/);
    server.protocol = "kiln.chat.v1";
    await page.getByRole("button", { name: "Reload" }).click();
    await see(page, "Ask demo something");
    expect(await page.inputValue("#composer")).toBe("a draft");
  });

  it("asks who it is where people sign in", async (test) => {
    const { server } = state;
    server.token = "secret";
    const { page } = await open(test);
    await page.getByLabel("Token").fill("wrong");
    await page.getByRole("button", { name: "Sign in" }).click();
    await see(page, "That token is not known.");
    await page.getByLabel("Token").fill("secret");
    await page.getByRole("button", { name: "Sign in" }).click();
    await see(page, "Ask demo something");
  });

  it("chooses the model, parameters and system prompt of what is sent", async (test) => {
    const { server } = state;
    server.models = [demo, { ...demo, name: "other" }];
    const { page } = await open(test);
    await page.getByRole("button", { name: /Model demo/ }).click();
    await page.getByRole("menuitemradio", { name: /other/ }).click();
    await page.getByRole("button", { name: "Parameters", exact: true }).click();
    await page.getByLabel("Temperature").fill("0.5");
    await page.getByLabel("System prompt").fill("Be brief.");
    await page.getByLabel("Use as training data").check();
    await say(page, "hi");
    await see(page, "You said: hi");
    const sent = server.events.find((event) => event.type === "chat.send");
    expect(sent).toMatchObject({
      model: "other",
      params: { temperature: 0.5 },
      system: "Be brief.",
      consent: true,
    });
  });
});
