import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { gzipSync } from "node:zlib";
import { unzipSync } from "fflate";
import type { Browser, BrowserContext, Page } from "playwright-core";
import { afterAll, beforeAll, describe, expect, it, type TestContext } from "vitest";
import { buildPlayground } from "../bin/playground.ts";
import { launchChromium } from "./browser/chromium.ts";
import { longestTask } from "./browser/trace.ts";

/** The playground as `npm run build` makes it, on a static host, in headless Chromium with its software adapter. */
const root = new URL("..", import.meta.url).pathname;
const steps = 24;
const stopAfter = 6;
const prompt = "Once upon a time";
const temporary = mkdtempSync(path.join(tmpdir(), "kiln-playground-"));
const folder = path.join(temporary, "page");
const types: Record<string, string> = {
  ".html": "text/html",
  ".js": "text/javascript",
  ".css": "text/css",
  ".svg": "image/svg+xml",
};
let server: Server;
let url = "";
let browser: Browser | null = null;
let whyNot = "";
let context: BrowserContext;
let page: Page;
const complaints: string[] = [];

beforeAll(async () => {
  await buildPlayground(folder);
  browser = await launchChromium().catch((error: Error) => {
    whyNot = error.message.split("\n")[0];
    console.warn(`Skipped, no browser: ${whyNot}`);
    return null;
  });
  if (!browser) return;
  server = createServer((request, response) => {
    const name = request.url === "/" ? "index.html" : request.url!.slice(1);
    if (!readdirSync(folder).includes(name)) return response.writeHead(404).end();
    response
      .writeHead(200, { "content-type": types[path.extname(name)] })
      .end(readFileSync(path.join(folder, name)));
  });
  await new Promise<void>((listening) => server.listen(0, "127.0.0.1", listening));
  url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/`;
  context = await browser.newContext();
  page = await opened(context);
});
afterAll(async () => {
  await browser?.close();
  server?.close();
  rmSync(temporary, { recursive: true, force: true });
});

async function opened(where: BrowserContext): Promise<Page> {
  const tab = await where.newPage();
  tab.on("console", (line) => complaints.push(line.text()));
  tab.on("pageerror", (error) => complaints.push(String(error)));
  tab.on("request", (request) => {
    if (!request.url().startsWith(url) && !/^(blob|data):/.test(request.url()))
      complaints.push(request.url());
  });
  await tab.goto(url);
  return tab;
}

function needBrowser(test: TestContext): void {
  if (!browser) test.skip(whyNot);
}

/** The step and the losses that the browser keeps. */
function kept(tab: Page): Promise<{ step: number; losses: number[] }> {
  return tab.evaluate(
    () =>
      new Promise((resolve, reject) => {
        const opening = indexedDB.open("kiln-playground");
        opening.onerror = () => reject(opening.error);
        opening.onsuccess = () => {
          const reading = opening.result.transaction("run").objectStore("run").get("snapshot");
          reading.onsuccess = () => {
            const { step = 0, losses = [] } = reading.result ?? {};
            opening.result.close();
            resolve({ step, losses });
          };
        };
      }),
  );
}

const button = (tab: Page, name: string | RegExp) => tab.getByRole("button", { name });
const told = (tab: Page, text: string | RegExp) => tab.getByText(text).first().waitFor({ timeout: 15_000 });

async function setUp(tab: Page): Promise<void> {
  await tab.getByLabel("Context").selectOption("32");
  await tab.getByLabel("Steps").fill(String(steps));
}

async function trainToTheEnd(tab: Page, name: string): Promise<void> {
  await button(tab, name).click();
  await button(tab, "Trained").waitFor({ timeout: 30_000 });
  await told(tab, `Kept in this browser up to step ${steps}.`);
}

/** What a tab's Chat view answers with the likeliest tokens. */
async function answer(tab: Page, count: number): Promise<string> {
  await tab.getByRole("tab", { name: "Chat" }).click();
  await button(tab, "Clear").click();
  await tab.getByLabel("Temperature").fill("0");
  await tab.locator("#tokens").fill(String(count));
  await tab.getByLabel("Your text").fill(prompt);
  await button(tab, "Send").click();
  await button(tab, "Send").waitFor();
  const text = await tab.locator("#turns .assistant").textContent();
  await tab.getByRole("tab", { name: "Train" }).click();
  return text!;
}

describe("the playground", () => {
  let exported = "";

  it("is small: all its files are under 250 kB, gzipped", () => {
    const sizes = readdirSync(folder).map((name) => {
      return { name, bytes: gzipSync(readFileSync(path.join(folder, name)), { level: 9 }).length };
    });
    // Loaded when somebody exports, or chats with a model that has a template.
    const first = sizes.filter(({ name }) => !/^(zip|chat_template)-/.test(name));
    const sum = (files: typeof sizes) => files.reduce((all, { bytes }) => all + bytes, 0);
    console.info(`${sum(first)} bytes at the first visit, ${sum(sizes)} in all, gzipped`);
    expect(sum(sizes)).toBeLessThan(250_000);
  });

  it("learns: the loss falls, and no task of the page takes 50 ms", async (test) => {
    needBrowser(test);
    await told(page, "software adapter");
    await setUp(page);
    await browser!.startTracing(page, { categories: ["toplevel", "disabled-by-default-devtools.timeline"] });
    await button(page, "Train").click();
    // The page draws once a frame, which may skip a step.
    await page.waitForFunction(
      (least) => Number.parseInt(document.querySelector("#numbers dd")?.textContent ?? "", 10) >= least,
      stopAfter,
    );
    await button(page, "Stop").click();
    await button(page, "Go on").waitFor();
    await told(page, /Kept in this browser up to step \d/);
    const { step, losses } = await kept(page);
    expect(step).toBeGreaterThanOrEqual(stopAfter);
    expect(step).toBeLessThan(steps);
    expect(losses).toHaveLength(step);
    const { longest, tasks } = longestTask(await browser!.stopTracing());
    expect(tasks).toBeGreaterThan(20);
    console.info(`longest task of the page: ${longest.toFixed(1)} ms`);
    expect(longest).toBeLessThan(50);
  });

  it("goes on after a reload as if it had never stopped", async (test) => {
    needBrowser(test);
    await page.reload();
    await told(page, /A run of \d+ steps is kept/);
    await trainToTheEnd(page, "Go on");
    const { losses } = await kept(page);
    expect(losses).toHaveLength(steps);
    expect(losses.at(-1)!).toBeLessThan(losses[0] - 0.7);
    const other = await browser!.newContext();
    const unbroken = await opened(other);
    await told(unbroken, "software adapter");
    await setUp(unbroken);
    await trainToTheEnd(unbroken, "Train");
    expect((await kept(unbroken)).losses).toEqual(losses);
    await other.close();
  });

  it("exports a folder that answers in Node with the same tokens", async (test) => {
    needBrowser(test);
    const downloading = page.waitForEvent("download");
    await button(page, "Export model").click();
    const files = unzipSync(readFileSync(await (await downloading).path()));
    for (const [name, bytes] of Object.entries(files).filter(([name]) => !name.endsWith("/"))) {
      const file = path.join(temporary, name);
      mkdirSync(path.dirname(file), { recursive: true });
      writeFileSync(file, bytes);
    }
    exported = path.join(temporary, "kiln-model");
    const guide = readFileSync(path.join(root, "docs/playground.md"), "utf8");
    const [, command] = /^npx kiln (sample kiln-model .*)$/m.exec(guide)!;
    const kiln = [path.join(root, "bin/kiln.mjs"), ...command.split(" ")];
    const { stdout, stderr } = spawnSync(process.execPath, kiln, { cwd: temporary, encoding: "utf8" });
    expect(stdout, stderr).toMatch(new RegExp(`^${prompt}`));
    const here = stdout.slice(prompt.length).replace(/\n$/, "");
    expect(here.length).toBeGreaterThan(5);
    expect(await answer(page, 12)).toBe(here);
  });

  it("opens a model's folder, and weights alone", async (test) => {
    needBrowser(test);
    const own = await answer(page, 12);
    await page.getByRole("tab", { name: "Chat" }).click();
    await page.locator("#folder").setInputFiles(exported);
    await told(page, /^kiln-model: [\d,]+ parameters, 32 tokens of context/);
    expect(await answer(page, 12)).toBe(own);
    await page.getByRole("tab", { name: "Chat" }).click();
    await button(page, "Use this run").click();
    await page.locator("#weights").setInputFiles(path.join(exported, "model.safetensors"));
    await told(page, /^model\.safetensors: [\d,]+ parameters/);
    expect(await answer(page, 12)).toBe(own);
    await page.getByRole("tab", { name: "Chat" }).click();
    await page.locator("#weights").setInputFiles(path.join(exported, "config.json"));
    await told(page, "There is no model.safetensors: drop the folder");
  });

  it("shows the kernels of a step, and leaves the run as it was", async (test) => {
    needBrowser(test);
    const before = await kept(page);
    await page.getByRole("tab", { name: "Kernels" }).click();
    await button(page, "Measure a step").click();
    await told(page, /^\d+ kernels, \d+ calls, [\d.]+ ms of a step/);
    const rows = page.locator("#list summary");
    expect(await rows.count()).toBeGreaterThan(10);
    await rows.first().click();
    expect(await page.locator("#list pre").first().textContent()).toContain("fn main(");
    const shares = await page
      .locator("#list meter")
      .evaluateAll((all) => all.map((one) => (one as HTMLMeterElement).value));
    expect(shares.reduce((sum, share) => sum + share, 0)).toBeCloseTo(100, 3);
    await page.getByRole("tab", { name: "Train" }).click();
    expect(await answer(page, 12)).not.toBe("");
    expect(await kept(page)).toEqual(before);
  });

  it("says what to do with a text that is too short", async (test) => {
    needBrowser(test);
    const other = await browser!.newContext();
    const tab = await opened(other);
    await told(tab, "software adapter");
    await tab
      .locator("#texts")
      .setInputFiles({ name: "short.txt", mimeType: "text/plain", buffer: Buffer.from("Too short.") });
    await told(tab, "Short.txt has 10 characters, too few to learn from: give at least 2,000, about a page.");
    await other.close();
  });

  it("opens without the network after the first visit", async (test) => {
    needBrowser(test);
    await page.evaluate(() => navigator.serviceWorker.ready.then(() => {}));
    await context.setOffline(true);
    await page.reload();
    await told(page, `A run of ${steps} steps is kept`);
    await context.setOffline(false);
  });

  it.each([
    ["no WebGPU", () => delete (Navigator.prototype as { gpu?: GPU }).gpu, "This browser has no WebGPU"],
    [
      "no adapter",
      () => Object.defineProperty(GPU.prototype, "requestAdapter", { value: async () => null }),
      "This browser finds no GPU that it may use",
    ],
  ])("says what to do where there is %s", async (_, spoil, words) => {
    if (!browser) return;
    const other = await browser.newContext();
    const tab = await other.newPage();
    await tab.addInitScript(spoil);
    await tab.goto(url);
    await told(tab, words);
    await told(tab, "Use a current Chrome, Edge, Safari or Firefox.");
    await other.close();
  });

  it("asks no other host for anything, and says nothing on the side", (test) => {
    needBrowser(test);
    expect(complaints).toEqual([]);
  });
});
