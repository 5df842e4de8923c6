import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import path from "node:path";
import type { Browser, BrowserContext, Page } from "playwright-core";
import { afterAll, afterEach, beforeAll, beforeEach, expect, type TestContext } from "vitest";
import { buildPage } from "../../serve/page/build.ts";
import { launchChromium } from "../browser/chromium.ts";
import { FakeServer } from "./fake_server.ts";

const axe = readFile(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

/** Where pictures go; not committed. */
export const pictures = path.join(tmpdir(), "kiln-page");

/** A page of a test, with what went wrong on it. */
export interface Opened {
  page: Page;
  context: BrowserContext;
  /** Lines of the console, exceptions, dialogs, refused and foreign requests. */
  complaints: string[];
}

/** A built page behind a fake server, new for each test, and a Chromium; tests are skipped where there is none. */
export function pageTests() {
  const folder = mkdtempSync(path.join(tmpdir(), "kiln-page-"));
  let browser: Browser | null = null;
  let whyNot = "";
  const contexts: BrowserContext[] = [];
  const state = { server: null as unknown as FakeServer, folder };

  beforeAll(async () => {
    await buildPage(folder);
    mkdirSync(pictures, { recursive: true });
    browser = await launchChromium().catch((error: Error) => {
      whyNot = error.message.split("\n")[0];
      console.warn(`Skipped, no browser: ${whyNot}`);
      return null;
    });
  });
  beforeEach(async () => {
    state.server = await FakeServer.start(folder);
  });
  afterEach(async () => {
    await Promise.all(contexts.splice(0).map((context) => context.close()));
    await state.server.close();
  });
  afterAll(async () => {
    await browser?.close();
    rmSync(folder, { recursive: true, force: true });
  });

  /** A server without anything that happened so far. */
  const anew = async () => {
    await state.server.close();
    state.server = await FakeServer.start(folder);
    return state.server;
  };
  const open = async (test: TestContext, hash = "", options: Parameters<Browser["newContext"]>[0] = {}) => {
    if (!browser) test.skip(whyNot);
    const context = await browser!.newContext({ reducedMotion: "reduce", locale: "en-US", ...options });
    contexts.push(context);
    return opened(context, state.server.url, hash);
  };
  return { state, open, anew };
}

/** Opens a tab. `reducedMotion` keeps pictures the same. */
export async function opened(context: BrowserContext, url: string, hash: string): Promise<Opened> {
  const page = await context.newPage();
  const complaints: string[] = [];
  page.on("console", (line) => complaints.push(line.text()));
  page.on("pageerror", (error) => complaints.push(String(error)));
  page.on("dialog", (dialog) => {
    complaints.push(`dialog: ${dialog.message()}`);
    void dialog.dismiss();
  });
  page.on("request", (request) => {
    if (!request.url().startsWith(`${url}/`) && !request.url().startsWith("data:"))
      complaints.push(`request: ${request.url()}`);
  });
  await page.goto(`${url}/${hash}`);
  return { page, context, complaints };
}

/** Faults that axe finds, one line each. */
export async function axeFaults(page: Page): Promise<string[]> {
  // Half a megabyte, which a page is given once.
  if (!(await page.evaluate(() => "axe" in window))) await page.evaluate(await axe);
  return page.evaluate(async () => {
    const { axe } = window as never as { axe: { run(options: object): Promise<never> } };
    const { violations } = await axe.run({ resultTypes: ["violations"] });
    const list = violations as { id: string; nodes: { html: string; failureSummary: string }[] }[];
    return list.flatMap(({ id, nodes }) =>
      nodes.map(({ html, failureSummary }) => `${id}: ${html.slice(0, 200)} ${failureSummary.slice(0, 300)}`),
    );
  });
}

/** How far the page can be scrolled sideways, in pixels. */
export const overflow = (page: Page): Promise<number> =>
  page.evaluate(() => {
    const scrolled = [document.documentElement, ...document.querySelectorAll("main, .screen")];
    return Math.max(...scrolled.map(({ scrollWidth, clientWidth }) => scrollWidth - clientWidth));
  });

/** Tables whose head does not stand above their rows: another class of the style makes them something else than tables. */
export const tableFaults = (page: Page): Promise<string[]> =>
  page.evaluate(() =>
    [...document.querySelectorAll("table")]
      .filter(({ tHead, tBodies: [body] }) => {
        const [head, rows] = [tHead, body].map((part) => part?.getBoundingClientRect());
        return head && rows && head.height > 0 && head.bottom > rows.top + 1;
      })
      .map(
        ({ caption, className }) => `${caption?.textContent ?? className}: its head is not above its rows`,
      ),
  );

/** Before a test gives up on what the page should show: longer than a server takes that shares its cores with ten others. */
const PATIENCE_MS = 40_000;

/** Waits until a text is on the page. */
export const see = (page: Page, text: string | RegExp) =>
  page.getByText(text).filter({ visible: true }).first().waitFor({ timeout: PATIENCE_MS });

/** Types a message and sends it. */
export async function say(page: Page, text: string): Promise<void> {
  await page.fill("#composer", text);
  await page.locator(".composer button[type=submit]:not([disabled])").waitFor({ timeout: PATIENCE_MS });
  await page.press("#composer", "Enter");
}

/** Waits until `condition` gives something true. */
export const until = (condition: () => unknown) =>
  expect.poll(async () => Boolean(await condition()), { timeout: PATIENCE_MS, interval: 20 }).toBe(true);
