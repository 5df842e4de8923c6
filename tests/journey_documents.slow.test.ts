import { execFile } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { promisify } from "node:util";
import type { Browser, Page } from "playwright-core";
import { afterAll, beforeAll, describe, expect, it, type TestContext } from "vitest";
import { launchChromium } from "./browser/chromium.ts";
import { axeFaults, type Opened, opened, say, see, until } from "./page/harness.ts";
import { fakeChatTokenizer } from "./serve_fake.ts";
import { callAs } from "./support/call_as.ts";
import { pdfDocument, wordDocument, wordParagraph } from "./support/documents.ts";
import { type ServeProcess, serveProcess, writeTinyModel } from "./support/serve_process.ts";

/** Journey J3 of the design: private documents, by the page and by the seed's own calls. The model has random weights: it quotes. */

const root = path.resolve(import.meta.dirname, "..");
const folder = mkdtempSync(path.join(tmpdir(), "kiln-private-"));
let server: ServeProcess;
let browser: Browser | null = null;
let whyNot = "";
/** What more than text was read. */
const read = new Set<string>();
let page: Page;
let tab: Opened;
const tokens: Record<string, string> = {};

/** One sound of 0.1 s, as a WAV file. */
function sound(): Buffer {
  const samples = 800;
  const out = Buffer.alloc(44 + 2 * samples);
  out.write("RIFF", 0, "latin1");
  out.writeUInt32LE(36 + 2 * samples, 4);
  out.write("WAVEfmt ", 8, "latin1");
  out.writeUInt32LE(16, 16);
  for (const [at, value] of [
    [20, 1],
    [22, 1],
    [32, 2],
    [34, 16],
  ])
    out.writeUInt16LE(value!, at);
  out.writeUInt32LE(8000, 24);
  out.writeUInt32LE(16000, 28);
  out.write("data", 36, "latin1");
  out.writeUInt32LE(2 * samples, 40);
  for (let i = 0; i < samples; i++) out.writeInt16LE(Math.round(9000 * Math.sin(i / 3)), 44 + 2 * i);
  return out;
}

const handbook = pdfDocument([
  [[72, 700, "Staff handbook of the garden shop. Please read it whole on your first day."]],
  [[72, 700, "The shop opens at nine on weekdays and at ten on Saturdays."]],
  [
    [72, 700, "Our return policy: goods may be returned within thirty days with the receipt."],
    [72, 680, "The money is paid back within a week."],
  ],
]);
const canteen = wordDocument(wordParagraph("The canteen serves lentil soup every Thursday."));
const picture = (text: string) =>
  Buffer.from(
    `<svg width="1200" height="200"><rect width="1200" height="200" fill="white"/><text x="20" y="110" font-size="44" font-family="DejaVu Sans">${text}</text></svg>`,
  );

/** A workbook, a photo of a receipt and a song, as far as the packages that read them are installed. */
async function others() {
  const made: { name: string; mimeType: string; buffer: Buffer }[] = [];
  const has = (name: string) =>
    import(name).then(
      (loaded) => loaded.default ?? loaded,
      () => console.warn(`Skipped, not installed: ${name}`),
    );
  const xlsx = await has("@e965/xlsx");
  if (xlsx) {
    const book = xlsx.utils.book_new();
    const rows = [
      ["plant", "days"],
      ["tulip", 90],
      ["basil", 21],
    ];
    xlsx.utils.book_append_sheet(book, xlsx.utils.aoa_to_sheet(rows), "Sowing");
    made.push({
      name: "sowing.xlsx",
      mimeType: "",
      buffer: xlsx.write(book, { type: "buffer", bookType: "xlsx" }),
    });
  }
  const sharp = await has("sharp");
  if (sharp && (await has("tesseract.js")))
    made.push({
      ...{ name: "receipt.jpg", mimeType: "image/jpeg" },
      buffer: await sharp(picture("Receipt: two copper watering cans")).jpeg().toBuffer(),
    });
  // 40 frames of silence, MPEG-1 layer III at 128 kbit/s.
  const frame = Buffer.alloc(417);
  frame.writeUInt32BE(0xfffb90c4);
  const song = Buffer.concat(Array.from({ length: 40 }, () => frame));
  if (await has("mpg123-decoder")) made.push({ name: "song.mp3", mimeType: "audio/mpeg", buffer: song });
  return made;
}

const files = [
  { name: "handbook.pdf", mimeType: "application/pdf", buffer: handbook },
  { name: "canteen.docx", mimeType: "application/octet-stream", buffer: canteen },
  { name: "prices.csv", mimeType: "text/csv", buffer: Buffer.from("item,price\nspade,12\nrake,9\n") },
  { name: "bell.wav", mimeType: "audio/wav", buffer: sound() },
  { name: "broken.pdf", mimeType: "application/pdf", buffer: handbook.subarray(0, 60) },
];

beforeAll(async () => {
  process.env.KILN_DATA_DIR = path.join(folder, "data");
  process.env.KILN_USERS = "multi";
  delete process.env.DATABASE_URL;
  await writeTinyModel(path.join(folder, "demo"), { tokenizer: fakeChatTokenizer(), context: 2048 });
  for (const name of ["cy", "dee"]) {
    const args = [path.join(root, "bin/kiln.mjs"), "user", "add", name, "--role", "member"];
    tokens[name] = (await promisify(execFile)(process.execPath, args, { timeout: 120_000 })).stdout.trim();
  }
  server = await serveProcess([`demo=${path.join(folder, "demo")}`]);
  browser = await launchChromium().catch((error: Error) => {
    whyNot = error.message.split("\n")[0]!;
    console.warn(`Skipped, no browser: ${whyNot}`);
    return null;
  });
});
afterAll(async () => {
  delete process.env.KILN_USERS;
  await browser?.close();
  server?.child.kill("SIGKILL");
  await server?.exited;
  rmSync(folder, { recursive: true, force: true });
});

const answer = () => page.locator(".message.assistant").last();
const row = (name: string) => page.locator("tr").filter({ hasText: name });
const called = callAs(() => server.url, tokens);

async function asked(text: string): Promise<void> {
  await page.goto(`${server.url}/#/chat`);
  await page.getByRole("button", { name: "New chat" }).first().click();
  await say(page, text);
  await until(async () => (await answer().getAttribute("data-status")) === "complete");
}

describe("J3: private documents", () => {
  const step = (name: string, run: () => Promise<unknown>) =>
    it(name, async (test: TestContext) => {
      if (browser === null) test.skip(whyNot);
      await run();
    });

  step("a member signs in with the token that was printed once", async () => {
    const context = await browser!.newContext({ reducedMotion: "reduce", locale: "en-US" });
    tab = await opened(context, server.url, "");
    page = tab.page;
    await page.fill("input[name=token]", tokens.cy!);
    await page.getByRole("button", { name: "Sign in" }).click();
    await see(page, "Ask demo something");
  });

  step("files are dropped, read, and ready or failed with a sentence", async () => {
    await page.goto(`${server.url}/#/documents`);
    await see(page, "No documents yet.");
    const more = await others();
    await page.locator("input[type=file]").setInputFiles([...files, ...more]);
    await until(async () => (await row("handbook.pdf").textContent())?.includes("3 passages"));
    await until(async () => (await row("canteen.docx").textContent())?.includes("1 passage"));
    await until(async () => /\d passage/.test((await row("prices.csv").textContent()) ?? ""));
    for (const name of ["bell.wav", "broken.pdf"])
      await until(
        async () =>
          (await row(name).locator(".error").count()) === 1 ||
          /passage/.test((await row(name).textContent())!),
      );
    expect(await row("broken.pdf").locator(".error").textContent()).toMatch(/\w+ \w+/);
    for (const { name } of more) {
      const said = name === "song.mp3" ? /speech is not transcribed here/ : /\d passage/;
      await until(async () => said.test((await row(name).textContent()) ?? ""));
      read.add(name);
    }
    expect(await axeFaults(page)).toEqual([]);
    await row("handbook.pdf").getByRole("button", { name: "handbook.pdf", exact: true }).click();
    await see(page, /3 · page 3/);
    await page.keyboard.press("Escape");
  });

  step("an answer cites the page, and a click opens the passage", async () => {
    await asked("What is the return policy?");
    expect(await answer().locator(".text").textContent()).toContain("returned within thirty days");
    await answer().locator(".cite").first().click();
    const panel = page.getByRole("complementary", { name: "Sources" });
    await until(async () =>
      (await panel.locator("mark").textContent())?.includes("thirty days with the receipt"),
    );
    await see(page, "page 3");
    expect(await axeFaults(page)).toEqual([]);
    await page.reload();
    await until(async () => (await answer().locator(".cite").count()) > 0);
  });

  step("what a workbook, a photo and a sound hold is found as far as there are words in them", async () => {
    const found = async (query: string) =>
      (await (await called("cy", "POST", "/api/retrieve", { query })).json()).passages[0];
    if (read.has("sowing.xlsx")) {
      const { name, text } = await found("How many days does basil take?");
      expect([name, text]).toEqual(["sowing.xlsx", expect.stringContaining("plant: basil; days: 21")]);
    }
    if (read.has("receipt.jpg")) {
      const { name, text } = await found("copper watering cans");
      expect([name, text]).toEqual(["receipt.jpg", expect.stringMatching(/two copper watering cans/i)]);
    }
    const { documents } = await (await called("cy", "GET", "/api/documents")).json();
    const sounds = documents.filter(({ kind }: { kind: string }) => kind === "audio");
    for (const { chunks_made } of sounds) expect(chunks_made).toBe(0);
    expect(sounds.length).toBe(read.has("song.mp3") ? 2 : 1);
  });

  step("what the documents do not have is said so, with the nearest passages", async () => {
    await page.evaluate(() => localStorage.setItem("kiln.retrieve", '"on"'));
    await page.reload();
    await asked("Which volcano erupted on Jupiter yesterday?");
    expect(await answer().locator(".text").textContent()).toContain("Nothing in your documents about this");
    await page.evaluate(() => localStorage.removeItem("kiln.retrieve"));
  });

  step("another user's questions never see them", async () => {
    const found = await (await called("dee", "POST", "/api/retrieve", { query: "return policy" })).json();
    expect(found.passages).toEqual([]);
    const [mine] = (await (await called("cy", "GET", "/api/documents")).json()).documents;
    for (const target of [
      `/api/documents/${mine.id}`,
      `/api/documents/${mine.id}/chunks`,
      `/api/documents/${mine.id}/content`,
    ])
      expect((await called("dee", "GET", target)).status).toBe(404);
    const chat = { user_id: "dee", query: "What is the return policy?", params: { max_tokens: 4 } };
    const said = await (await called("dee", "POST", "/api/chat", chat)).json();
    expect(said.citations).toEqual([]);
    expect(JSON.stringify(said)).not.toContain("thirty days");
  });

  step("the seed's own calls do the same", async () => {
    const form = new FormData();
    form.append("file", new Blob(["The weather station is on the roof of the town hall."]), "a.txt");
    form.append("metadata", JSON.stringify({ user_id: "dee", data_type: "text" }));
    const sent = await called("dee", "POST", "/api/upload", form);
    expect(sent.status).toBe(202);
    const { id } = (await sent.json()).documents[0];
    await until(
      async () => (await (await called("dee", "GET", `/api/documents/${id}`)).json()).state === "ready",
    );
    const chat = { user_id: "dee", query: "Where is the weather station?" };
    const said = await (await called("dee", "POST", "/api/chat", chat)).json();
    expect(said.response).toContain("on the roof of the town hall");
    expect(said.citations).toMatchObject([{ n: 1, name: "a.txt" }]);
  });
});
