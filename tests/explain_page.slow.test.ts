import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import path from "node:path";
import { pathToFileURL } from "node:url";
import type { Browser, Page } from "playwright-core";
import { afterAll, beforeAll, expect, it, type TestContext } from "vitest";
import { openDevice } from "../kernels/index.ts";
import { type Explanation, explain } from "../serve/app/explain/explain.ts";
import { pageFile, writeExplanation } from "../serve/app/explain/page.ts";
import { Tokenizer, trainBpe } from "../tokenizer/index.ts";
import { launchChromium } from "./browser/chromium.ts";
import { pictures } from "./page/harness.ts";
import { tinyLlama } from "./support/tiny_decoders.ts";

/** The page that `kiln explain --html` writes, in a browser, opened as a person opens a file. */

const folder = mkdtempSync(path.join(tmpdir(), "kiln-explain-page-"));
const file = path.join(folder, "why.html");
const title = "<img src=x onerror=alert(1)> by tiny";
let explanation: Explanation;
let browser: Browser | null = null;
beforeAll(async () => {
  await openDevice();
  const model = tinyLlama({ vocab_size: 257 });
  const tokenizer = new Tokenizer(trainBpe(["a"], { vocab_size: 257, special_tokens: ["<|endoftext|>"] }));
  const ids = await tokenizer.encode("def add(a, b):\n    return </script><b>a");
  explanation = await explain(model, tokenizer, ids, ids.length - 3);
  model.dispose();
  writeExplanation(pageFile(file), explanation, title);
  mkdirSync(pictures, { recursive: true });
  browser = await launchChromium().catch(() => null);
}, 60_000);
afterAll(async () => {
  await browser?.close();
  rmSync(folder, { recursive: true, force: true });
});

async function open(test: TestContext, options: Parameters<Browser["newContext"]>[0] = {}) {
  if (browser === null) test.skip("no browser");
  const context = await browser!.newContext(options);
  const page = await context.newPage();
  const complaints: string[] = [];
  page.on("console", (message) => complaints.push(message.text()));
  page.on("pageerror", (error) => complaints.push(error.message));
  page.on("dialog", (dialog) => complaints.push(dialog.message()));
  page.on("request", (request) => complaints.push(request.url()));
  await page.goto(pathToFileURL(file).href);
  expect(complaints.shift()).toBe(pathToFileURL(file).href);
  return { page, complaints };
}

/** The colours behind the prompt's tokens. */
const colours = (page: Page) =>
  page
    .locator("#text span")
    .evaluateAll((spans) => spans.map((span) => (span as HTMLElement).style.background));
/** How dark a place of the attention map is, 0 to 255. */
const inked = (page: Page, of: [t: number, s: number]) =>
  page.locator("#map").evaluate((canvas, [t, s]) => {
    const map = canvas as HTMLCanvasElement;
    const size = map.width / document.querySelectorAll("#text span").length;
    const copy = Object.assign(document.createElement("canvas"), { width: map.width, height: map.height });
    const context = copy.getContext("2d", { willReadFrequently: true })!;
    context.drawImage(map, 0, 0);
    return context.getImageData((s + 0.5) * size, (t + 0.5) * size, 1, 1).data[3]!;
  }, of);

it("shows tokens, what they add, what else was likely and who sees whom", async (test) => {
  const { page, complaints } = await open(test, { viewport: { width: 1280, height: 1400 } });
  const { tokens, from, choices, attention, rollout, attribution } = explanation;
  expect(await page.locator("h1").textContent()).toBe(title);
  expect(await page.locator("#text").textContent()).toBe(tokens.join(""));
  expect(await page.locator("#text .follows").count()).toBe(tokens.length - from);
  expect(await page.locator("#gap").textContent()).toMatch(/\d/);
  const rows = page.locator("#choices tbody tr");
  expect(await rows.count()).toBe(choices.length);
  expect(await rows.first().textContent()).toContain(JSON.stringify(choices[0]!.text));
  expect(await rows.first().textContent()).toContain(JSON.stringify(choices[0]!.alternatives[0]!.text));

  // The strongest token of each method has the strongest colour, green where it helps.
  const strongest = (values: readonly number[]) =>
    values.reduce((best, value, t) => (Math.abs(value) > Math.abs(values[best]!) ? t : best), 0);
  const methods = {
    "integrated gradients": attribution.integratedGradients,
    "gradient x input": attribution.gradientTimesInput,
  };
  for (const [name, values] of Object.entries(methods)) {
    await page.getByLabel("Method").selectOption(name);
    const t = strongest(values);
    const shown = await colours(page);
    expect(shown[t]).toBe(values[t]! < 0 ? "rgba(220, 60, 60, 0.8)" : "rgba(40, 140, 80, 0.8)");
    expect(shown[from]).toBe("");
    expect(await page.locator("#text span").nth(t).getAttribute("title")).toContain(values[t]!.toFixed(4));
  }

  const share = (map: ArrayLike<number>, t: number, s: number) => map[t * tokens.length + s]!;
  const places: [number, number][] = [
    [0, 0],
    [9, 2],
    [tokens.length - 1, 1],
    [3, 9],
  ];
  const expected = (map: ArrayLike<number>) =>
    places.map(([t, s]) => 255 * Math.sqrt(Math.round(255 * share(map, t, s)) / 255));
  const check = async (map: ArrayLike<number>) => {
    for (const [i, want] of expected(map).entries())
      expect(Math.abs((await inked(page, places[i]!)) - want)).toBeLessThan(2);
  };
  expect(await page.getByLabel("Head").isDisabled()).toBe(true);
  await check(rollout);
  await page.getByLabel("Layer").selectOption("1");
  await page.getByLabel("Head").selectOption("2");
  await check(attention[1]![2]!);

  const box = (await page.locator("#map").boundingBox())!;
  const place = (index: number) => ((index + 0.5) * box.width) / tokens.length;
  await page.locator("#map").hover({ position: { x: place(2), y: place(9) } });
  const told = `${JSON.stringify(tokens[9])} sees ${JSON.stringify(tokens[2])}: `;
  expect(await page.locator("#weight").textContent()).toContain(told);
  await page.screenshot({ path: path.join(pictures, "explain-1280.png"), fullPage: true });
  expect(complaints).toEqual([]);
});

it("fits a phone in the dark, and passes axe", async (test) => {
  const { page, complaints } = await open(test, {
    ...{ viewport: { width: 390, height: 800 }, colorScheme: "dark", bypassCSP: true },
  });
  expect(await page.evaluate(() => document.documentElement.scrollWidth)).toBeLessThanOrEqual(390);
  const dark = await page.evaluate(() => matchMedia("(prefers-color-scheme: dark)").matches);
  expect(dark).toBe(true);
  await page.addScriptTag({ path: createRequire(import.meta.url).resolve("axe-core/axe.min.js") });
  const violations = await page.evaluate(async () => {
    const { axe } = globalThis as unknown as { axe: { run(): Promise<{ violations: { id: string }[] }> } };
    return (await axe.run()).violations.map(({ id }) => id);
  });
  await page.screenshot({ path: path.join(pictures, "explain-390.png"), fullPage: true });
  expect(violations).toEqual([]);
  expect(complaints).toEqual([]);
});
