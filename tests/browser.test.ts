import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { fileURLToPath } from "node:url";
import { type BuildOptions, build } from "esbuild";
import type { Browser, Page } from "playwright-core";
import { afterAll, beforeAll, describe, expect, it, type TestContext } from "vitest";
import { kernelsInside, withoutNode } from "../bin/bundle_plugin.ts";
import { openDevice } from "../kernels/index.ts";
import { launchChromium } from "./browser/chromium.ts";
import { type Progress, trainTinyLlama } from "./browser/lesson.ts";
import type { adapter, OpReport } from "./browser/page.ts";

/** The engine in a browser: bundled as docs/browser.md says, served from 127.0.0.1, run in headless Chromium. */
let script: string;
let server: Server;
let browser: Browser | null = null;
let page: Page;
let whyNot = "";
const complaints: string[] = [];

beforeAll(async () => {
  script = await bundle({ entryPoints: [fileURLToPath(new URL("./browser/page.ts", import.meta.url))] });
  try {
    browser = await launchChromium();
  } catch (error) {
    whyNot = (error as Error).message.split("\n")[0];
    console.warn(`Skipped, no browser: ${whyNot}`);
    return;
  }
  server = createServer(({ url }, response) => {
    const isScript = url === "/page.js";
    response.writeHead(200, { "content-type": isScript ? "text/javascript" : "text/html" });
    response.end(isScript ? script : "<!doctype html><title>kiln</title>");
  });
  await new Promise<void>((listening) => server.listen(0, "127.0.0.1", listening));
  page = await browser.newPage();
  page.on("pageerror", (error) => complaints.push(String(error)));
  await page.goto(`http://127.0.0.1:${(server.address() as AddressInfo).port}/`);
});
afterAll(async () => {
  await browser?.close();
  server?.close();
});

async function bundle(entry: Pick<BuildOptions, "entryPoints" | "stdin">): Promise<string> {
  const { outputFiles } = await build({
    ...entry,
    bundle: true,
    format: "esm",
    target: "es2022",
    write: false,
    logLevel: "silent",
    plugins: [kernelsInside(), withoutNode()],
  });
  return outputFiles[0].text;
}

/** Calls an export of the bundle inside the page. */
function inPage<T>(context: TestContext, call: string): Promise<T> {
  if (!browser) context.skip(whyNot);
  return page.evaluate(`import("/page.js").then((kiln) => kiln.${call})`) as Promise<T>;
}

describe("in a browser", () => {
  it("bundles without a module of Node", () => {
    expect(script).not.toMatch(/["']node:/);
    expect(script).toContain("fn main(");
  });

  it("bundles code around file access, which throws when called", async () => {
    const contents = `import { readFile } from "node:fs/promises";
      export const load = (path) => readFile(path);`;
    const text = await bundle({ stdin: { contents } });
    const { load } = await import(`data:text/javascript,${encodeURIComponent(text)}`);
    expect(() => load("x")).toThrow("needs node:fs/promises, which is not in this page");
  });

  it("opens a device", async (context) => {
    const found = await inPage<Awaited<ReturnType<typeof adapter>>>(context, "adapter()");
    console.info(found.line);
    expect(found.software).toBe(true);
    expect(found.toggles).toEqual([]);
  });

  it("computes what the float64 reference computes, every op", async (context) => {
    const report = await inPage<OpReport>(context, "checkOps(4)");
    console.info(`${report.samples} samples and ${report.gradients} gradients of ${report.ops} ops`);
    expect(report.failures).toEqual([]);
    expect(report.ops).toBeGreaterThan(80);
    expect(report.gradients).toBeGreaterThan(40);
  });

  it("trains a Llama with the losses of Node", async (context) => {
    const there = await inPage<Progress[]>(context, "train()");
    await openDevice();
    const here = await trainTinyLlama();
    there.forEach(({ loss, gradNorm }, step) => {
      expect(Math.abs(loss - here[step].loss), `loss of step ${step}`).toBeLessThan(1e-4);
      expect(Math.abs(gradNorm - here[step].gradNorm), `gradient norm of step ${step}`).toBeLessThan(1e-3);
    });
    expect(there).toHaveLength(here.length);
    expect(there.at(-1)!.loss).toBeLessThan(there[0].loss - 0.5);
  });

  it("throws nothing on the side", (context) => {
    if (!browser) context.skip(whyNot);
    expect(complaints).toEqual([]);
  });
});
