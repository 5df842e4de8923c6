import { execFileSync, spawn, spawnSync } from "node:child_process";
import {
  cpSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { launchChromium } from "./browser/chromium.ts";

/** The package as a user gets it: packed from a copy of the tree, installed into an empty folder, used from there. */
const root = fileURLToPath(new URL("..", import.meta.url));
const work = mkdtempSync(path.join(tmpdir(), "kiln-pack-"));
const user = path.join(work, "user");
/** The block of the README that trains a network. */
const lesson = [...readFileSync(path.join(root, "README.md"), "utf8").matchAll(/```js\n([\s\S]*?)```/g)]
  .map(([, text]) => text)
  .find((text) => text.includes("AdamW"))!;
let server: Server | null = null;

const run = (command: string, args: readonly string[], cwd = user) =>
  execFileSync(command, args, { cwd, encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] });
const kiln = (...args: string[]) => run(process.execPath, ["node_modules/kiln/bin/kiln.mjs", ...args]);

beforeAll(() => {
  const copy = path.join(work, "copy");
  const tracked = run("git", ["ls-files", "-co", "--exclude-standard"], root).split("\n").filter(Boolean);
  for (const file of tracked.filter((name) => !name.startsWith("tests/"))) {
    mkdirSync(path.dirname(path.join(copy, file)), { recursive: true });
    cpSync(path.join(root, file), path.join(copy, file));
  }
  symlinkSync(path.join(root, "node_modules"), path.join(copy, "node_modules"));
  run("npm", ["pack", "--pack-destination", work], copy);
  mkdirSync(user);
  writeFileSync(path.join(user, "package.json"), '{ "private": true, "type": "module" }');
  const [tarball] = readdirSync(work).filter((name) => name.endsWith(".tgz"));
  const quiet = ["--prefer-offline", "--ignore-scripts", "--no-audit", "--no-fund"];
  run("npm", ["install", ...quiet, path.join(work, tarball)]);
}, 600_000);
afterAll(() => {
  server?.close();
  rmSync(work, { recursive: true, force: true });
});

/** The losses in the lines that the lesson prints. */
const lossesIn = (text: string) => [...text.matchAll(/loss (\S+)/g)].map(([, loss]) => Number(loss));

describe("the packed package", () => {
  let losses: number[] = [];

  it("trains in plain Node", () => {
    writeFileSync(path.join(user, "lesson.mjs"), lesson);
    losses = lossesIn(run(process.execPath, ["lesson.mjs"]));
    expect(losses.length).toBeGreaterThan(2);
    expect(losses.at(-1)).toBeLessThan(losses[0] / 10);
  });

  it("trains in a page with the losses of Node", async (context) => {
    const { outputFiles } = await build({
      entryPoints: [path.join(user, "lesson.mjs")],
      bundle: true,
      format: "esm",
      write: false,
    });
    const script = outputFiles[0].text;
    const browser = await launchChromium().catch((error: Error) => context.skip(error.message));
    try {
      server = createServer(({ url }, response) => {
        response.writeHead(200, { "content-type": url === "/page.js" ? "text/javascript" : "text/html" });
        response.end(url === "/page.js" ? script : "<!doctype html><title>kiln</title>");
      });
      await new Promise<void>((listening) => server!.listen(0, "127.0.0.1", listening));
      const page = await browser.newPage();
      const lines: string[] = [];
      page.on("console", (message) => lines.push(message.text()));
      await page.goto(`http://127.0.0.1:${(server.address() as AddressInfo).port}/`);
      await page.evaluate('import("/page.js")');
      const there = lossesIn(lines.join("\n"));
      expect(there).toHaveLength(losses.length);
      there.forEach((loss, i) => {
        expect(Math.abs(loss - losses[i]), `loss ${i}`).toBeLessThan(1e-4);
      });
    } finally {
      await browser.close();
    }
  });

  it.each([
    ["nodenext", "nodenext"],
    ["esnext", "bundler"],
  ])("has types for module %s, resolution %s, those of libraries checked too", (module, moduleResolution) => {
    const text = `import { openDevice, tensor, type Tensor } from "kiln";
      import { loadModel } from "kiln/models";
      import { Linear } from "kiln/nn";
      import { createServer } from "kiln/serve";
      import { Tokenizer } from "kiln/tokenizer";
      import { AdamW } from "kiln/train";
      await openDevice();
      const y: Tensor = new Linear(2, 3).forward(tensor([[1, 2]])).mul(2).sum();
      const rank: number = y.rank;
      // @ts-expect-error a tensor is no number
      const wrong: number = y;
      export { AdamW, createServer, loadModel, rank, Tokenizer, wrong };`;
    writeFileSync(path.join(user, "user.ts"), text);
    const options = ["--target", "es2022", "--module", module, "--moduleResolution", moduleResolution];
    const tsc = path.join(root, "node_modules/typescript/bin/tsc");
    const args = [tsc, "--noEmit", "--strict", "--skipLibCheck", "false", ...options, "user.ts"];
    const { stdout } = spawnSync(process.execPath, args, { cwd: user, encoding: "utf8" });
    expect(stdout).toBe("");
  });

  it("has the command: trains, samples, checks", () => {
    expect(kiln("--help")).toMatch(/Usage: kiln/);
    expect(kiln("settings")).toMatch(/train\.learning_rate/);
    const sizes = ["--steps", "2", "--batch-size", "2", "--sequence-length", "32", "--vocab-size", "300"];
    const toy = ["data.corpus.stories=20", "train.warmup_steps=1", "sample.max_tokens=4", "eval.tokens=64"];
    kiln("train", "pretrain", "--out", "run", ...sizes, ...toy.flatMap((setting) => ["--set", setting]));
    expect(kiln("sample", "run/model", "--max-tokens", "3").length).toBeGreaterThan(0);
    expect(kiln("verify", path.join(root, "tests/fixtures/golden"), "--filter", "softmax")).toMatch(
      / 0 failed/,
    );
    expect(kiln("bench", "--quick", "--no-peers", "--filter", "add")).toMatch(/add/);
  });

  it("serves what it trained, with the page", async () => {
    const command = ["node_modules/kiln/bin/kiln.mjs", "serve", "run/model", "--port", "0"];
    const serving = spawn(process.execPath, command, { cwd: user, stdio: ["ignore", "pipe", "inherit"] });
    try {
      const lines = createInterface(serving.stdout);
      const [, url] = await new Promise<RegExpExecArray>((resolve) => {
        lines.on("line", (line) => {
          const found = /open (http:\S+) in a browser/.exec(line);
          if (found) resolve(found);
        });
      });
      const html = await (await fetch(url!)).text();
      const [, script] = /<script type="module" src="([^"]+)"/.exec(html)!;
      expect((await fetch(new URL(script!, url))).headers.get("content-type")).toContain("javascript");
      const playground = await fetch(`${url}playground`);
      expect(playground.url).toBe(`${url}playground/`);
      const [, main] = /<script type="module" src="([^"]+)"/.exec(await playground.text())!;
      expect((await fetch(new URL(main!, playground.url))).headers.get("content-type")).toContain(
        "javascript",
      );
      const models = (await (await fetch(`${url}api/models`)).json()) as { default_model: string };
      expect(models.default_model).toBe("run");
    } finally {
      serving.kill();
    }
  });
});
