import type { CDPSession, Page } from "playwright-core";
import { describe, expect, it } from "vitest";
import { longestTask } from "../browser/trace.ts";
import { pageTests, say, see, until } from "./harness.ts";

const { state, open } = pageTests();

/** An answer of 10,000 tokens or so (4 characters each): prose, lists, tables and code, in frames of 7 tokens, 60 a second. */
function longAnswer(): string[] {
  const prose = "The dragon went to the castle and asked the king for some bread. ".repeat(6);
  const list = Array.from({ length: 12 }, (_, i) => `${i + 1}. the **${i}**th thing that it said`).join("\n");
  const rows = Array.from({ length: 8 }, (_, i) => `| ${i} | castle | \`x${i}\` |`).join("\n");
  const code = Array.from({ length: 20 }, (_, i) => `    total += price[${i}] * amount  # line ${i}`).join(
    "\n",
  );
  const part = `## Part\n\n${prose}\n\n${list}\n\n| n | place | code |\n|---|---|---|\n${rows}\n\n\`\`\`python\ndef f():\n${code}\n\`\`\`\n\n`;
  return part
    .repeat(Math.ceil(40_000 / part.length))
    .slice(0, 40_000)
    .match(/[\s\S]{1,28}/g)!;
}

async function heap(page: Page, session: CDPSession): Promise<number> {
  await page.waitForTimeout(300);
  await session.send("HeapProfiler.collectGarbage");
  return (await session.send("Runtime.getHeapUsage")).usedSize;
}

describe("a long answer", () => {
  for (const [name, answer] of [
    ["of all kinds of text", longAnswer()],
    ["that is one list", Array.from({ length: 1430 }, (_, i) => `- item ${i} of the long list\n`)],
    [
      "that is one block of code",
      ["```python\n", ...Array.from({ length: 1430 }, (_, i) => `value_${i} = compute(${i})\n`)],
    ],
  ] as const)
    it(`${name} streams without holding the page up`, async (test) => {
      const { server } = state;
      const { page, context, complaints } = await open(test);
      await see(page, "Ask demo something");
      const session = await context.newCDPSession(page);
      // The same text in a hurry first: what the page loads and compiles for it stays, and is not the answer's.
      server.reply = () => ({ pieces: [...answer], gapMs: 1 });
      await say(page, "warm up");
      await page.locator('.assistant[data-status="complete"]').waitFor({ timeout: 60_000 });
      await page.keyboard.press("Control+Shift+o");
      await see(page, "Ask demo something");
      server.reply = () => ({ pieces: [...answer], gapMs: 16 });
      const before = await heap(page, session);
      const browser = context.browser()!;
      await browser.startTracing(page, {
        categories: ["toplevel", "disabled-by-default-devtools.timeline", "devtools.timeline"],
      });
      await say(page, "go");
      await until(async () => (await page.locator(".assistant").count()) === 1);
      await page.locator('.assistant[data-status="complete"]').waitFor({ timeout: 200_000 });
      const { longest, tasks } = longestTask(await browser.stopTracing());
      const shown = (await page.locator(".text").textContent())!;
      expect(shown.length).toBeGreaterThan(25_000);
      await page.keyboard.press("Control+Shift+o");
      await see(page, "Ask demo something");
      const after = await heap(page, session);
      console.info(
        `${name}: longest task ${longest.toFixed(1)} ms of processor time (${tasks} tasks), heap ${before} -> ${after}`,
      );
      expect(tasks).toBeGreaterThan(1000);
      expect(longest).toBeLessThan(50);
      expect(after / before).toBeLessThan(1.1);
      expect(complaints).toEqual([]);
    }, 300_000);
});
