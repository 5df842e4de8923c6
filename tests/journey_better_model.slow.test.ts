import { type ChildProcess, execFile, spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import type { Browser, Page } from "playwright-core";
import { afterAll, beforeAll, expect, it } from "vitest";
import { openDevice } from "../kernels/index.ts";
import { loadModel } from "../models/formats/hf_directory.ts";
import type { Experiment, FineTuneResult, JobInfos, Message } from "../serve/app/protocol.ts";
import { TextGenerator } from "../serve/text/text_generator.ts";
import { launchChromium } from "./browser/chromium.ts";
import { opened, say, see, until } from "./page/harness.ts";
import { FakeOllama } from "./support/fake_ollama.ts";

/** Journey J2 of the design: from conversations to a better model, by the page and the commands that a person would use. */

const root = path.resolve(import.meta.dirname, "..");
const folder = mkdtempSync(path.join(tmpdir(), "kiln-j2-"));
// As in a newcomer's folder: data are below it.
const env = { ...process.env, KILN_DATA_DIR: "kiln-data" };
const place = (name: string) => path.join(folder, name);
let server: ChildProcess | null = null;
let url = "";
let browser: Browser | null = null;
let ollama: FakeOllama;

/** A kiln command, in a folder of its own. @returns what it prints. */
const kiln = (...args: string[]) =>
  new Promise<string>((resolve, reject) => {
    const options = { cwd: folder, env, maxBuffer: 2 ** 26, timeout: 170_000 };
    execFile(
      process.execPath,
      [path.join(root, "bin/kiln.mjs"), ...args],
      options,
      (error, stdout, stderr) =>
        error ? reject(new Error(`kiln ${args.join(" ")}: ${stderr.slice(-2000)}`)) : resolve(stdout),
    );
  });

/** Starts `kiln serve`, and waits for its address. */
async function serve(...args: string[]): Promise<void> {
  server = spawn(process.execPath, [path.join(root, "bin/kiln.mjs"), "serve", ...args, "--port", "0"], {
    ...{ cwd: folder, env, stdio: ["ignore", "pipe", "inherit"] },
  });
  let printed = "";
  server.stdout!.on("data", (piece) => {
    printed += piece;
  });
  await expect
    .poll(() => /at (http:\/\/\S+)/.exec(printed)?.[1] ?? "", { timeout: 200_000 })
    .toMatch(/^http/);
  url = /at (http:\/\/\S+)/.exec(printed)![1]!;
}

async function api<T>(method: string, target: string, body?: unknown): Promise<T> {
  const response = await fetch(url + target, {
    method,
    ...(body === undefined
      ? {}
      : { body: JSON.stringify(body), headers: { "content-type": "application/json" } }),
  });
  if (!response.ok) throw new Error(`${method} ${target}: ${response.status} ${await response.text()}`);
  return (await response.json()) as T;
}

const screen = (page: Page, name: string) => page.goto(`${url}/#/${name}`);
const button = (page: Page, name: string | RegExp) => page.getByRole("button", { name, exact: true });

/** What to answer, as the built-in stories have it. */
interface Lesson {
  question: string;
  answer: string;
}
let lessons: Lesson[];

beforeAll(async () => {
  browser = await launchChromium().catch(() => null);
  await openDevice();
  ollama = await FakeOllama.start(place("ollama"), async ({ model }, prompt, { num_predict }) => {
    const loaded = await loadModel(model);
    const generator = new TextGenerator(loaded.model, loaded.tokenizer, { maxSequences: 1 });
    const text = await generator.complete(prompt, { temperature: 0, max_tokens: num_predict as number });
    generator.close();
    loaded.model.dispose();
    return text;
  });
}, 60_000);
afterAll(async () => {
  await browser?.close();
  ollama?.close();
  if (server !== null && server.exitCode === null) {
    server.kill("SIGTERM");
    await new Promise((done) => server!.once("exit", done));
  }
  rmSync(folder, { recursive: true, force: true });
}, 30_000);

it("leads from thumbs and corrections to a version that is promoted without a dropped request", async (test) => {
  if (browser === null) test.skip("no browser");
  await kiln("demo", "--smoke", "--out", "runs/demo");
  // What has learned nothing has next to nothing for an adapter to turn to: its logits are as small as its embeddings.
  const more = ["--steps", "40", "--learning-rate", "8e-3"];
  await kiln("train", "pretrain", "--out", "runs/demo", "--resume", ...more);
  await kiln("model", "add", "assistant", "runs/demo");
  await kiln("model", "alias", "assistant", "prod", "1");
  lessons = (await kiln("stories", "--chats", "--count", "40"))
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line).messages)
    .map(([asked, answered]) => ({ question: asked.content, answer: answered.content }));
  await serve("assistant");
  const context = await browser!.newContext({ reducedMotion: "reduce", locale: "en-US" });
  const { page, complaints } = await opened(context, url, "");

  await chatWithThumbs(page);
  await collectMore();
  await previewCleaning(page);

  // The same numbers by the command, from the log that the server kept and from its store alike.
  const config = path.join(root, "docs/configs/conversations.yaml");
  const report = JSON.parse(await kiln("data", "build", config, "store", "--out", "runs/data1", "--json"));
  const shown = await api<{ total: number; kept: number; dropped: object }>("POST", "/api/data/preview", {});
  expect([report.counts.read, report.counts.kept]).toEqual([shown.total, shown.kept]);
  expect(report.dropped).toEqual(shown.dropped);
  const log = place("kiln-data/conversations.jsonl");
  expect(JSON.parse(await kiln("data", "stats", log, "--json")).total_conversations).toBe(shown.total);

  const { loss, validation_loss, version, published, samples } = await fineTune(page);
  expect([version, published]).toEqual(["user-local@1", "assistant@2"]);
  expect(loss.last!).toBeLessThan(loss.first! - 0.05);
  expect(validation_loss.best!).toBeLessThan(validation_loss.first! - 0.05);
  expect([samples.before.length, samples.after.length]).toEqual([2, 2]);
  // What so small a model writes may be the same: fine_tune.slow has one that learns.
  for (const text of [...samples.before, ...samples.after]) expect(text).toMatch(/^User: .+\nAssistant: /);
  await see(page, samples.after[1]!.split("\n")[0]!);

  await startExperiment(page);
  await chatWithIt(page);
  await compare(page);
  await promoteUnderLoad(page);
  await deploy(page);
  expect(complaints).toEqual([]);
}, 900_000);

/** In the page: the switch for training data, a thumb up, and a thumb down with a reason and a better answer. */
async function chatWithThumbs(page: Page): Promise<void> {
  await page.locator("#composer").waitFor({ timeout: 20_000 });
  await button(page, "Parameters").click();
  await page.getByLabel("Use as training data").click();
  await page.getByLabel("Longest answer").fill("24");
  await page.keyboard.press("Escape");
  for (const [i, { question, answer }] of lessons.slice(0, 2).entries()) {
    if (i > 0)
      await button(page, /^New chat/)
        .first()
        .click();
    await say(page, question);
    const up = button(page, "Good answer").last();
    await up.waitFor({ timeout: 30_000 });
    if (i === 0) {
      await up.click();
      await until(async () => (await up.getAttribute("aria-pressed")) === "true");
    } else {
      await button(page, "Bad answer").last().click();
      await page.getByLabel("Incorrect").click();
      await page.getByLabel("A better answer, if you like").fill(answer);
      await page.getByRole("dialog").getByRole("button", { name: "Send" }).click();
      await page.getByRole("dialog").waitFor({ state: "detached" });
    }
  }
  const { conversations } = await api<{ conversations: { id: string; consent: boolean }[] }>(
    ...(["GET", "/api/conversations"] as const),
  );
  expect(conversations.map(({ consent }) => consent)).toEqual([true, true]);
  const { messages } = await api<{ messages: Message[] }>(
    ...(["GET", `/api/conversations/${conversations[0]!.id}/messages`] as const),
  );
  expect(messages.at(-1)).toMatchObject({
    ...{ role: "assistant", model: "assistant", model_version: "assistant@1" },
    feedback: { rating: -1, reason: "incorrect", correction: lessons[1]!.answer },
  });
}

/** What colleagues collected meanwhile, by the same routes. */
async function collectMore(): Promise<void> {
  const params = { max_tokens: 12, temperature: 0 };
  for (const { question, answer } of lessons.slice(2)) {
    const { message_id } = await api<{ message_id: string }>("POST", "/api/chat", {
      ...{ user_id: "local", query: question, consent: true, params },
    });
    await api("POST", "/api/feedback", { message_id, rating: -1, correction: answer });
  }
}

async function previewCleaning(page: Page): Promise<void> {
  await screen(page, "data");
  await see(page, "Clean preview");
  await page.getByText("40", { exact: true }).first().waitFor();
  await button(page, "Preview").click();
  await see(page, /of 40 conversations kept, \d+ dropped\./);
}

/** By the page's wizard: from the conversations, as a version for everybody too. */
async function fineTune(page: Page): Promise<FineTuneResult> {
  await screen(page, "finetune");
  await page.getByLabel("What to learn from").selectOption("conversations");
  await page.getByText("Advanced").click();
  const fields = {
    "Passes over the data": "12",
    "Learning rate": "0.01",
    Rank: "16",
    "Publish as": "assistant",
  };
  for (const [name, value] of Object.entries(fields)) await page.getByLabel(name).fill(value);
  await see(page, /^40 examples with .* tokens: about \d+ steps/);
  const looks: string[] = [];
  page.on("request", (request) => /\/api\/jobs/.test(request.url()) && looks.push(request.url()));
  await button(page, "Start").click();
  await see(page, /training|waiting/);
  await page.getByText("Published as assistant@2.").waitFor({ timeout: 240_000 });
  await see(page, /Validation loss [\d.]+ → [\d.]+/);
  // The socket tells of it: the page asks for what there is when it starts, and no more.
  expect(looks.length).toBeLessThan(6);
  const { jobs } = await api<JobInfos>("GET", "/api/jobs?kind=finetune");
  return jobs[0]!.result!;
}

async function startExperiment(page: Page): Promise<void> {
  await screen(page, "experiments");
  await button(page, "Start an experiment").click();
  const dialog = page.getByRole("dialog");
  await dialog.locator("[name=name]").fill("better");
  await dialog.locator("[name=control]").fill("assistant@prod");
  await dialog.locator("[name=treatment]").fill("assistant@2");
  await dialog.getByRole("button", { name: "Start an experiment" }).click();
  await dialog.waitFor({ state: "detached" });
  await see(page, "assistant@2");
  const [started] = JSON.parse(await kiln("ab", "status", "--json")) as Experiment[];
  expect(started).toMatchObject({ name: "better", state: "running" });
  expect(started!.arms.map(({ name }) => name)).toEqual(["assistant@1", "assistant@2"]);
  await expect(kiln("model", "rm", "assistant@2")).rejects.toThrow(/the experiment better/);
}

async function chatWithIt(page: Page): Promise<void> {
  await screen(page, "models");
  const card = page.locator("li.card", { hasText: "assistant@2" });
  await card.getByRole("button", { name: "Chat with it" }).click();
  await say(page, lessons[0]!.question);
  await button(page, "Good answer").last().waitFor({ timeout: 30_000 });
  await button(page, "Good answer").last().click();
  const { conversations } = await api<{ conversations: { id: string }[] }>("GET", "/api/conversations");
  const { messages } = await api<{ messages: Message[] }>(
    ...(["GET", `/api/conversations/${conversations[0]!.id}/messages`] as const),
  );
  expect(messages.at(-1)).toMatchObject({ model_version: "assistant@2", status: "complete" });
}

async function compare(page: Page): Promise<void> {
  await screen(page, "compare");
  await page.getByLabel("Blind").click();
  await page.getByLabel("One prompt for all of them").fill(lessons[3]!.question);
  await button(page, "Ask all of them").click();
  await button(page, "Model 1 is better").click({ timeout: 30_000 });
  await see(page, "Your vote is preference data now.");
  await see(page, "assistant@2");
  const votes = await kiln("data", "export", "store", "--feedback", "dpo", "--out", "exports");
  expect(votes).toMatch(/^\d+ pairs/);
}

async function promoteUnderLoad(page: Page): Promise<void> {
  let switching = true;
  const versions: (string | null)[] = [];
  const failures: unknown[] = [];
  const clients = Array.from({ length: 6 }, async (_, client) => {
    for (let i = 0; switching; i++) {
      // So many that the arms, which the hash of an id that is new each time gives, are not all one.
      const user_id = `c${client}-${i % 4}`;
      const params = { max_tokens: 8, temperature: 0 };
      const body = { user_id, query: "Once upon a time", model: "assistant", params };
      try {
        const { conversation_id } = await api<{ conversation_id: string }>("POST", "/api/chat", body);
        const at = `/api/conversations/${conversation_id}/messages?user_id=${user_id}`;
        versions.push((await api<{ messages: Message[] }>("GET", at)).messages.at(-1)!.model_version);
      } catch (error) {
        failures.push(error);
        return;
      }
    }
  });
  await expect.poll(() => [...new Set(versions), ...failures].length, { timeout: 120_000 }).toBe(2);
  await screen(page, "experiments");
  await button(page, "Promote assistant@2").click();
  await see(page, /assistant@prod is assistant@2/);
  const promoted = versions.length;
  // Until the server has followed, and some answers more.
  await expect
    .poll(
      () =>
        versions
          .slice(promoted)
          .slice(-12)
          .filter((one) => one === "assistant@2").length,
      { timeout: 60_000 },
    )
    .toBe(12);
  switching = false;
  await Promise.all(clients);
  expect(failures).toEqual([]);
  expect(new Set(versions)).toEqual(new Set(["assistant@1", "assistant@2"]));
  const [{ aliases }] = JSON.parse(await kiln("model", "list", "assistant", "--json")).slice(-1);
  expect(aliases).toEqual(["prod"]);
}

async function deploy(page: Page): Promise<void> {
  await screen(page, "models");
  await page.locator("li.card", { hasText: "assistant" }).first().locator(".card-main").click();
  await see(page, "Versions of assistant");
  await button(page, "Deploy to Ollama").first().click();
  const dialog = page.getByRole("dialog");
  await dialog.getByLabel("Address of Ollama").fill(ollama.url);
  await dialog.getByRole("button", { name: "Deploy to Ollama" }).click();
  const said = page.locator(".toast, dialog p, [role=status], [role=alert]").filter({ hasText: /\w/ });
  const told = async () => (await said.allTextContents()).join("\n");
  await expect
    .poll(told, { timeout: 150_000 })
    .toMatch(/48 greedy tokens on 3 prompts are equal|too long|fail|error/i);
  expect(await told()).toMatch(/48 greedy tokens on 3 prompts are equal/);
  expect([...ollama.models.keys()].some((name) => name.startsWith("assistant"))).toBe(true);
}
