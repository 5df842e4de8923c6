import { fileURLToPath } from "node:url";
import { build } from "esbuild";
import fc from "fast-check";
import type { Browser, Page } from "playwright-core";
import { afterAll, beforeAll, describe, expect, it, type TestContext } from "vitest";
import type { Block, Blocks } from "../../serve/page/render/markdown.ts";
import { launchChromium } from "../browser/chromium.ts";

let browser: Browser | null = null;
let page: Page;
let whyNot = "";
beforeAll(async () => {
  const entry = fileURLToPath(new URL("../../serve/page/render/markdown.ts", import.meta.url));
  const { outputFiles } = await build({
    ...{ entryPoints: [entry], bundle: true, format: "iife", globalName: "markdown", write: false },
    target: "es2022",
  });
  browser = await launchChromium().catch((error: Error) => {
    whyNot = error.message;
    return null;
  });
  if (!browser) return;
  page = await browser.newPage();
  await page.addScriptTag({ content: outputFiles[0].text });
});
afterAll(() => browser?.close());

declare const markdown: { Blocks: new () => Blocks };

/** The blocks of a text that arrives in pieces, and whether each stayed the same object once another came after it. */
function grow(test: TestContext, pieces: string[][]): Promise<{ blocks: Block[]; stable: boolean }[]> {
  if (!browser) test.skip(whyNot);
  return page.evaluate((all) => {
    // A parse that takes no time holds none of the next ones back.
    let clock = 0;
    performance.now = () => clock;
    return all.map((parts) => {
      const parser = new markdown.Blocks();
      const seen: Block[] = [];
      let stable = true;
      let text = "";
      for (const part of parts) {
        text += part;
        clock++;
        const blocks = parser.update(text, false);
        blocks.slice(0, -2).forEach((block, index) => {
          seen[index] ??= block;
          stable &&= seen[index] === block;
        });
      }
      return { blocks: [...parser.update(text, true)], stable };
    });
  }, pieces);
}

const html = (blocks: Block[]) =>
  blocks
    .map((block) => (block.kind === "html" ? block.html : `<code ${block.language}>${block.code}</code>`))
    .join("");

const parts = [
  ...[
    "Once upon a time",
    "# Title",
    "- one\n- two\n\n- three",
    "1. a\n2. b",
    "> said\n> she",
    "**bold** and `x`",
  ],
  ...["```python\nprint('a')\n\n# b\n```", "| a | b |\n|---|---|\n| 1 | 2 |", "---", "line  \nbreak\nmore"],
  ...[
    "- a\n  - b\n\n    c",
    "~~~\nplain\n~~~",
    "a <b>c</b> <i onclick=x>d</i>",
    "5. five\n6. six",
    "\ttabbed",
  ],
];

describe("the text of an answer", () => {
  it("comes to the same however it is cut, and what is closed is parsed once", async (test) => {
    const text = fc
      .array(fc.constantFrom(...parts), { minLength: 1, maxLength: 8 })
      .map((list) => list.join("\n\n"));
    const cut = fc.tuple(text, fc.array(fc.nat(400), { maxLength: 12 }), fc.boolean());
    const samples = fc.sample(cut, { numRuns: 150, seed: 7 }).map(([whole, cuts, windows]) => {
      const all = windows ? whole.replaceAll("\n", "\r\n") : whole;
      const at = [0, ...cuts.map((n) => n % (all.length + 1)).sort((a, b) => a - b), all.length];
      return { all, pieces: at.slice(1).map((end, i) => all.slice(at[i], end)) };
    });
    const grown = await grow(
      test,
      samples.map(({ pieces }) => pieces),
    );
    const whole = await grow(
      test,
      samples.map(({ all }) => [all]),
    );
    grown.forEach(({ blocks, stable }, index) => {
      expect(html(blocks), JSON.stringify(samples[index].pieces)).toBe(html(whole[index].blocks));
      expect(stable).toBe(true);
    });
  });

  it("cuts a long list between its items, whose numbers go on", async (test) => {
    const items = Array.from({ length: 300 }, (_, i) => `${i + 1}. item ${i + 1} ${"x".repeat(20)}\n`);
    const [{ blocks, stable }] = await grow(test, [items]);
    expect(stable).toBe(true);
    expect(blocks.length).toBeGreaterThan(1);
    const numbers = blocks.flatMap((block) => {
      const text = html([block]);
      const start = Number(/<ol start="(\d+)"/.exec(text)?.[1] ?? 1);
      return [...text.matchAll(/<li>item (\d+)/g)].map(([, n], i) => [Number(n), start + i]);
    });
    expect(numbers).toHaveLength(300);
    for (const [item, shown] of numbers) expect(shown).toBe(item);
  });

  it("fetches nothing, says where links lead, and takes no tag of HTML for one", async (test) => {
    const cases: [string, string][] = [
      [
        "![cat](https://evil.example/x.png)",
        '<a rel="noopener noreferrer" target="_blank" href="https://evil.example/x.png">cat</a> <small>(evil.example)</small>',
      ],
      [
        "[bank](https://evil.example)",
        '<a rel="noopener noreferrer" target="_blank" href="https://evil.example">bank</a> <small>(evil.example)</small>',
      ],
      [
        "https://a.example/b",
        '<a rel="noopener noreferrer" target="_blank" href="https://a.example/b">https://a.example/b</a>',
      ],
      ["[x](javascript:alert(1))", '<a rel="noopener noreferrer" target="_blank">x</a>'],
      ["<img src=x onerror=alert(1)>", "&lt;img src=x onerror=alert(1)&gt;"],
      ["a<br>b<sub>2</sub>", "a<br>b<sub>2</sub>"],
      ["<script>alert(1)</script>", "&lt;script&gt;alert(1)&lt;/script&gt;"],
    ];
    const got = await grow(
      test,
      cases.map(([text]) => [text]),
    );
    got.forEach(({ blocks }, index) => {
      const bare = html(blocks).replace(/^<p>|<\/p>\s*$/g, "");
      const normal = (text: string) =>
        text.replace(/<a [^>]*>/g, (tag) =>
          tag
            .slice(3, -1)
            .split(/ (?=\w+=)/)
            .sort()
            .join(" "),
        );
      expect(normal(bare)).toBe(normal(cases[index][1]));
    });
  });

  it("parses less often where that is slow, and not where one step was interrupted", async (test) => {
    if (!browser) test.skip(whyNot);
    const begins = await page.evaluate(() => {
      const parser = new markdown.Blocks();
      let [clock, text] = [0, ""];
      return [2, 2, 300, 2, 100, 100, 100, 100, 100, 2].map((took) => {
        const step = () => {
          let looks = 0;
          performance.now = () => (looks++ === 0 ? clock : clock + took);
          parser.update(`${text}word `, false);
        };
        step();
        clock += parser.heldBack;
        if (parser.heldBack > 0) step();
        text += "word ";
        const begin = clock;
        clock += took;
        return begin;
      });
    });
    const between = begins.slice(1).map((begin, i) => begin - begins[i]!);
    expect(between).toEqual([8, 16, 300, 16, 100, 100, 184, 376, 500]);
  });
});
