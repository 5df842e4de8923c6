import { describe, expect, it } from "vitest";
import { pageTests, say, see, until } from "./harness.ts";

const { state, open } = pageTests();
const long = (count: number) => Array.from({ length: count }, (_, i) => `word${i} `);

describe("a chat", () => {
  it("goes from the empty page to an answer with its figures", async (test) => {
    const { server } = state;
    server.reply = () => ({ pieces: ["Once ", "there ", "was **a dragon**."] });
    const { page, complaints } = await open(test);
    await see(page, "Ask demo something");
    expect(await page.evaluate(() => document.activeElement?.id)).toBe("composer");
    await page.fill("#composer", "Tell me");
    await see(page, /^14 \/ 1,024$/);
    await page.keyboard.press("Enter");
    await see(page, "a dragon");
    expect(await page.inputValue("#composer")).toBe("");
    await see(page, /tokens · 118 tok\/s · first token 41 ms/);
    expect(await page.locator(".text strong").textContent()).toBe("a dragon");
    const [conversation] = server.conversations.keys();
    expect(new URL(page.url()).hash).toBe(`#/chat/${conversation}`);
    await see(page, "Tell me");
    await page.getByRole("button", { name: "New chat" }).first().click();
    await page.getByRole("button", { name: "Tom had a red ball" }).click();
    await until(() => server.conversations.size === 2);
    expect(complaints).toEqual([]);
  });

  it("goes on after a reload at whatever point", async (test) => {
    const { server } = state;
    server.reply = () => ({ pieces: long(60), gapMs: 20 });
    const { page } = await open(test);
    await say(page, "go");
    for (let round = 0; round < 3; round++) {
      await see(page, `word${round * 12 + 3}`);
      await page.reload();
    }
    await see(page, "word59");
    await until(async () => (await page.locator(".assistant").getAttribute("data-status")) === "complete");
    expect((await page.locator(".text").textContent())!.trim()).toBe(long(60).join("").trim());
  });

  it("stays readable without the server, and offers to continue what was interrupted", async (test) => {
    const { server } = state;
    server.reply = () => ({ pieces: long(10), hold: true });
    const { page } = await open(test);
    await say(page, "go");
    await see(page, "word9");
    await page.fill("#composer", "a draft");
    await server.close();
    await see(page, /Connection lost/);
    await see(page, "word9");
    await server.restart();
    await page.getByRole("button", { name: "Retry now" }).click();
    await see(page, "Interrupted before its end.");
    expect(await page.inputValue("#composer")).toBe("a draft");
    await page.getByRole("button", { name: "Continue" }).click();
    await see(page, /word9 And so on\./);
  });
});
