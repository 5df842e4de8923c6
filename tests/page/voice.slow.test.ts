import { expect, it } from "vitest";
import { opened, pageTests, say, see, until } from "./harness.ts";

const { state, open } = pageTests();

/** A browser that hears what the test says and notes what it reads, or one that can do neither. */
const speech = (has: boolean) => `
  for (const name of ["SpeechRecognition", "webkitSpeechRecognition", "speechSynthesis", "SpeechSynthesisUtterance"]) {
    delete window[name];
    delete Window.prototype[name];
  }
  if (${has}) {
    window.heard = null;
    window.webkitSpeechRecognition = class {
      start() { window.heard = this; }
      stop() { this.onend(); }
      abort() { this.aborted = true; }
    };
    window.spoken = [];
    window.SpeechSynthesisUtterance = class { constructor(text) { this.text = text; } };
    Object.defineProperty(window, "speechSynthesis", { configurable: true, value: {
      cancel() { window.spoken.push("(ended)"); },
      speak(one) { window.spoken.push(one.text); window.last = one; },
    }});
  }`;

it("writes what is heard and reads answers aloud where the browser can, and offers neither elsewhere", async (test) => {
  state.server.reply = () => ({ pieces: ["First words. ", "Then more.\n\nAnd an end."] });
  const { context, page: other } = await open(test);
  await other.close();
  await context.addInitScript(speech(true));
  const { page, complaints } = await opened(context, state.server.url, "");
  const dictate = page.getByRole("button", { name: /^Dictate/ });
  await page.fill("#composer", "Please");
  await dictate.click();
  await page.getByRole("button", { name: "Stop dictating" }).waitFor();
  await page.evaluate(`heard.onresult({ results: [[{ transcript: " tell me a story" }]] })`);
  await until(async () => (await page.inputValue("#composer")) === "Please tell me a story");
  await page.getByRole("button", { name: "Stop dictating" }).click();
  await dictate.click();
  await page.evaluate(`heard.onerror({ error: "not-allowed" })`);
  await page.evaluate(`heard.onend()`);
  await see(page, /microphone is not allowed here/);

  await say(page, "Please tell me a story");
  await see(page, "And an end.");
  await page.getByRole("button", { name: "Read aloud" }).click();
  await page.getByRole("button", { name: "Stop reading" }).waitFor();
  const spoken = () => page.evaluate<string[]>("spoken");
  expect((await spoken()).map((text) => text.trim())).toEqual([
    "(ended)",
    "First words.",
    "Then more.",
    "And an end.",
  ]);
  await page.evaluate(`last.onend()`);
  await page.getByRole("button", { name: "Read aloud" }).click();
  await page.getByRole("button", { name: "Stop reading" }).click();
  await page.getByRole("button", { name: "Read aloud" }).waitFor();
  expect((await spoken()).at(-1)).toBe("(ended)");
  expect(complaints).toEqual([]);
  await page.close();

  await context.addInitScript(speech(false));
  const { page: mute } = await opened(context, state.server.url, "");
  await say(mute, "again");
  await see(mute, "And an end.");
  await mute.getByRole("button", { name: "Copy", exact: true }).first().waitFor();
  expect(await mute.getByRole("button", { name: /Dictate|Read aloud/ }).count()).toBe(0);
});
