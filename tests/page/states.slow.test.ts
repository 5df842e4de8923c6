import path from "node:path";
import type { Page } from "playwright-core";
import { describe, expect, it } from "vitest";
import type { DocumentList, ModelInfo } from "../../serve/app/protocol.ts";
import { citations, documentRoutes } from "./fake_documents.ts";
import { demo, other } from "./fake_history.ts";
import { type FakeServer, fault } from "./fake_server.ts";
import { axeFaults, overflow, pageTests, pictures, say, see, tableFaults, until } from "./harness.ts";
import { cancelled, done, failed, jobEvents, running } from "./job_reports.ts";
import { analytics, statistics } from "./reports.ts";

const { anew, open } = pageTests();
const documentsNone = documentRoutes()["GET /api/documents"]({}, {}) as DocumentList;
/** From a phone on: what was opened there stays open where there is more room, but not the other way. */
const sizes = [
  { width: 390, height: 844 },
  { width: 768, height: 1024 },
  { width: 1280, height: 800 },
];

interface State {
  /** What the server has before the page opens. */
  before?: (server: FakeServer) => unknown;
  hash?: string | ((server: FakeServer) => string);
  /** What a person does then. */
  act?: (page: Page, server: FakeServer) => unknown;
  /** What must be seen. */
  sees: string | RegExp;
}

const answer = `Once upon a time there was a *dragon*.

- it was red
- it was **kind**

| place | day |
|---|---|
| castle | Monday |

\`\`\`python
def greet(name: str) -> str:
    return f"hello {name}"  # a line that is quite long, so that it scrolls inside its own box at 390 pixels
\`\`\`

See [the map](https://example.com/map).`;

function history(server: FakeServer) {
  const now = Date.now();
  const first = server.addConversation({ title: "The dragon", updated_at: now });
  server.addTurn(first, "Tell me about a dragon", answer);
  server.addConversation({ title: "Pinned notes", pinned: true, updated_at: now - 3e9 });
  server.addConversation({ title: "Running now", running: true, updated_at: now - 1 });
  server.addConversation({
    title: "Last week with a title that is far too long for one line",
    updated_at: now - 2e8,
  });
  server.addConversation({ title: "Long ago", updated_at: now - 3e9 });
  return first;
}
const first = (server: FakeServer) => `#/chat/${[...server.conversations.keys()][0]}`;
const failure = {
  code: "engine_error",
  message: "The device is lost; the model is loaded anew.",
  retryable: true,
};
const notReady: ModelInfo[] = [
  { ...other, state: "loading", progress: 0.4 },
  {
    ...{ ...other, name: "broken", state: "failed" },
    ...{ error: "The weights are 3 bytes short.", log: "logs/broken.txt" },
  },
];
const long = Array.from({ length: 30 }, (_, i) => `word${i} `);
const button = (page: Page, name: string | RegExp) =>
  page.getByRole("button", { name, exact: true }).first().click();

/** Where it is not there anyway. */
async function openSidebar(page: Page): Promise<void> {
  await page.locator("#composer").waitFor();
  const opener = page.getByRole("button", { name: "Open the sidebar" });
  if (await opener.isVisible()) await opener.click();
}

const states: Record<string, State> = {
  "app-loading": {
    before: (server) => server.broken.set("/api/me", "hang"),
    act: wait(500),
    sees: "Message",
  },
  "app-unreachable": {
    before: (server) => {
      history(server);
      server.broken.set("/api/conversations", 500);
    },
    act: openSidebar,
    sees: "The disk is full.",
  },
  "app-offline": {
    before: history,
    hash: first,
    act: async (page, server) => {
      await see(page, "castle");
      await server.close();
    },
    sees: /Connection lost|Connecting/,
  },
  "app-outdated": { before: (server) => (server.protocol = "kiln.chat.v9"), sees: /has been updated/ },
  "app-store-lost": {
    before: history,
    hash: first,
    act: async (page, server) => {
      await see(page, "castle");
      server.tell({ type: "store.update", state: "lost" });
    },
    sees: "The server has lost its database",
  },
  login: { before: (server) => (server.token = "x"), sees: "Sign in to kiln" },
  "chat-empty": { sees: "Ask demo something" },
  "chat-no-model": { before: (server) => (server.models = []), sees: "No model yet" },
  "chat-read": { before: history, hash: first, sees: "castle" },
  "chat-not-loaded": {
    before: (server) => {
      history(server);
      server.broken.set(`/api/conversations/${[...server.conversations.keys()][0]}`, 500);
    },
    hash: first,
    sees: "This conversation could not be loaded.",
  },
  "chat-waiting": {
    before: (s) => (s.reply = () => ({ hold: true })),
    act: (page) => say(page, "hi"),
    sees: "hi",
  },
  "chat-queued": {
    before: (s) => (s.reply = () => ({ hold: true, notice: { kind: "queued", position: 3 } })),
    act: (page) => say(page, "hi"),
    sees: "number 3 in the queue",
  },
  "chat-streaming": {
    before: (s) => (s.reply = () => ({ pieces: long, hold: true })),
    act: (page) => say(page, "hi"),
    sees: "word29",
  },
  "chat-stopped": {
    before: (s) => (s.reply = () => ({ pieces: long, hold: true })),
    act: async (page) => {
      await say(page, "hi");
      await see(page, "word29");
      await page.keyboard.press("Escape");
    },
    sees: "Stopped.",
  },
  "chat-error": {
    before: (s) => (s.reply = () => ({ pieces: ["Half an answer"], error: failure })),
    act: (page) => say(page, "hi"),
    sees: /device is lost/,
  },
  "chat-interrupted": {
    before: (server) => {
      const conversation = server.addConversation({});
      server.addTurn(conversation, "hi", "Half an", { status: "interrupted", finish_reason: null });
    },
    hash: first,
    sees: /Interrupted/,
  },
  "chat-trimmed": {
    before: (server) => {
      const conversation = server.addConversation({});
      server.addTurn(conversation, "hi", "Hello.", { trimmed: { messages: 4, tokens: 310 } });
    },
    hash: first,
    sees: "4 earlier messages not sent",
  },
  "chat-cut": {
    before: (server) =>
      server.addTurn(server.addConversation({}), "hi", "Hello and", { finish_reason: "length" }),
    hash: first,
    sees: "longest length",
  },
  "chat-fallback": {
    before: (s) =>
      (s.reply = () => ({
        ...{ pieces: ["Hello."], provider: "hub", model: "big" },
        notice: { kind: "fallback", from: "demo", to: "big", reason: "429, too many requests" },
      })),
    act: (page) => say(page, "hi"),
    sees: "answered by hub",
  },
  "chat-branches": {
    before: (server) => {
      const conversation = server.addConversation({});
      const one = server.addTurn(conversation, "hi", "Hello.");
      server.addMessage({ ...conversation, leaf_id: one.parent_id }, { role: "assistant", content: "Hey." });
    },
    hash: first,
    sees: "1/2",
  },
  "chat-editing": {
    before: history,
    hash: first,
    act: async (page) => {
      await see(page, "castle");
      await page.press("#composer", "ArrowUp");
      await page.getByRole("textbox", { name: "Edit the message" }).waitFor();
    },
    sees: "Cancel",
  },
  "chat-parameters": {
    before: history,
    hash: first,
    act: (page) => button(page, "Parameters"),
    sees: "Temperature",
  },
  "chat-feedback": {
    before: history,
    hash: first,
    act: (page) => button(page, "Bad answer"),
    sees: "What was wrong?",
  },
  "chat-why": {
    before: history,
    hash: first,
    act: (page) => button(page, "Why these words"),
    sees: "entropy",
  },
  "chat-jump": {
    before: (server) => server.addTurn(server.addConversation({}), "hi", "line\n\n".repeat(80)),
    hash: first,
    act: async (page) => {
      await see(page, "line");
      await page.locator(".log").evaluate((log) => log.scrollTo(0, 0));
    },
    sees: "Jump to newest",
  },
  "chat-deleted": {
    before: history,
    hash: first,
    act: async (page) => {
      await see(page, "castle");
      if (await page.getByRole("button", { name: "Open the sidebar" }).isVisible())
        await button(page, "Open the sidebar");
      await button(page, "Delete: The dragon");
    },
    sees: "Conversation deleted.",
  },
  sidebar: {
    before: history,
    act: async (page) => {
      if (await page.getByRole("button", { name: "Open the sidebar" }).isVisible())
        await button(page, "Open the sidebar");
    },
    sees: "Pinned notes",
  },
  search: {
    before: history,
    act: async (page) => {
      await page.keyboard.press("Control+k");
      await page.getByRole("combobox").fill("dragon");
    },
    sees: "Tell me about a dragon",
  },
  shortcuts: { act: (page) => page.keyboard.press("Control+/"), sees: "Keyboard shortcuts" },
  "models-menu": {
    before: (server) => (server.models = [demo, ...notReady]),
    act: (page) => button(page, /^Model/),
    sees: "The weights are 3 bytes short.",
  },
  models: { hash: "#/models", sees: "Versions of demo" },
  "models-states": {
    before: (server) => (server.models = [{ ...demo, version: null }, ...notReady]),
    hash: "#/models",
    sees: "loading, 40%",
  },
  documents: {
    hash: "#/documents",
    act: async (page) => {
      await page.getByLabel("Question").fill("What is the return policy?");
      await button(page, "Search");
    },
    sees: "the best passage has 81.0%",
  },
  "documents-none": {
    before: ({ reports }) => (reports["GET /api/documents"] = () => ({ ...documentsNone, documents: [] })),
    hash: "#/documents",
    sees: "No documents yet.",
  },
  "documents-error": {
    before: (s) => s.broken.set("/api/documents", 500),
    hash: "#/documents",
    sees: "The disk is full.",
  },
  "documents-known": {
    hash: "#/documents",
    act: (page) =>
      page.locator("input[type=file]").setInputFiles({
        name: "handbook.pdf",
        mimeType: "application/pdf",
        buffer: Buffer.from("%PDF-1.4"),
      }),
    sees: "handbook.pdf is already there.",
  },
  "documents-passages": {
    hash: "#/documents",
    act: (page) => button(page, "handbook.pdf"),
    sees: "Gift cards are neither returned nor exchanged.",
  },
  "chat-sources": {
    before: (server) => {
      const conversation = server.addConversation({ title: "Returns" });
      server.addTurn(
        conversation,
        "What is the return policy?",
        "Goods may be returned within **30 days** [1]. Elephants sleep standing. See also [2] and `x[1]`.",
      );
      const message = server.messages.get(conversation.leaf_id!)!;
      Object.assign(message, { citations, unsupported: ["Elephants sleep standing."] });
    },
    hash: first,
    act: (page) => page.locator(".cite").first().click(),
    sees: "The money is paid back within a week.",
  },
  "models-none": { before: (server) => (server.models = []), hash: "#/models", sees: "No model yet" },
  "models-deploy": {
    hash: "#/models",
    act: async (page) => {
      await button(page, "Deploy to Ollama");
      await page.getByRole("dialog").getByRole("button", { name: "Deploy to Ollama" }).click();
    },
    sees: "48 greedy tokens on 3 prompts are equal.",
  },
  data: {
    hash: "#/data",
    act: (page) => button(page, "Preview"),
    sees: "183 of 214 conversations kept, 31 dropped.",
  },
  "data-none": {
    before: ({ reports }) =>
      (reports["GET /api/data/statistics"] = () => ({ ...statistics, total_conversations: 0 })),
    hash: "#/data",
    sees: "No conversations to learn from yet",
  },
  "data-error": { before: (s) => s.broken.set("/api/data", 500), hash: "#/data", sees: "The disk is full." },
  finetune: { hash: "#/finetune", sees: "Validation loss 2.31 → 1.87" },
  "finetune-none": {
    before: ({ reports }) => {
      reports["GET /api/jobs"] = () => ({ jobs: [] });
      reports["POST /api/fine-tune/estimate"] = () => {
        throw fault(422, "too_little_data", "there are 3 examples with 90 tokens to learn from: give more");
      };
    },
    hash: "#/finetune",
    sees: "No fine-tunes yet.",
  },
  "finetune-running": {
    before: ({ reports }) => (reports["GET /api/jobs"] = () => ({ jobs: [running, done] })),
    hash: "#/finetune",
    act: (page) => page.locator("summary").click(),
    sees: "16 of 40",
  },
  "finetune-failed": {
    before: ({ reports }) => {
      reports["GET /api/jobs"] = () => ({ jobs: [failed] });
      const lines = Array.from({ length: 20 }, (_, i) => `line ${i} of what the trainer said`);
      const error = { seq: 30, at: 0, level: "error", message: "the loss is NaN", data: { lines } };
      reports["GET /api/jobs/:id/events"] = () => ({ events: [...jobEvents, error] });
    },
    hash: "#/finetune",
    sees: "line 19 of what the trainer said",
  },
  "finetune-cancelled": {
    before: ({ reports }) => (reports["GET /api/jobs"] = () => ({ jobs: [cancelled] })),
    hash: "#/finetune",
    sees: "Resume",
  },
  "finetune-error": {
    before: (s) => s.broken.set("/api/jobs", 500),
    hash: "#/finetune",
    sees: "The disk is full.",
  },
  settings: { hash: "#/settings", sees: "kiln-99b0" },
  "settings-account": {
    before: (server) => (server.user = { ...server.user, mode: "multi", name: "cy", role: "member" }),
    hash: "#/settings",
    sees: "Signed in as cy",
  },
  "settings-key": { hash: "#/settings", act: (page) => button(page, "New key"), sees: "kiln-4f2a-secret" },
  "settings-delete": {
    hash: "#/settings",
    act: (page) => button(page, "Delete my data"),
    sees: "There is no undo",
  },
  analytics: { hash: "#/analytics", act: charts, sees: "Messages per day" },
  "analytics-table": {
    hash: "#/analytics",
    act: async (page) => {
      await charts(page);
      await button(page, "Table");
    },
    sees: "2026-11-21",
  },
  "analytics-loading": {
    before: (s) => s.broken.set("/api/analytics", "hang"),
    hash: "#/analytics",
    act: wait(500),
    sees: "From",
  },
  "analytics-none": {
    before: ({ reports }) =>
      (reports["GET /api/analytics"] = () => ({
        ...analytics,
        totals: { ...analytics.totals, messages: 0 },
      })),
    hash: "#/analytics",
    sees: "No events in this range.",
  },
  "analytics-error": {
    before: (s) => s.broken.set("/api/analytics", 500),
    hash: "#/analytics",
    sees: "Try again",
  },
  experiments: { hash: "#/experiments", act: charts, sees: "+9.8 points" },
  "experiments-none": {
    before: ({ reports }) => (reports["GET /api/experiments"] = () => ({ experiments: [] })),
    hash: "#/experiments",
    sees: "No experiments yet.",
  },
  "experiments-start": {
    hash: "#/experiments",
    act: (page) => button(page, "Start an experiment"),
    sees: "Share of the treatment",
  },
  compare: {
    hash: "#/compare",
    act: async (page) => {
      await page.getByLabel("One prompt for all of them").fill("Tell me a story");
      await button(page, "Ask all of them");
    },
    sees: "stories is better",
  },
  "compare-blind": {
    hash: "#/compare",
    act: async (page) => {
      await page.getByLabel("Blind").check();
      await page.getByLabel("One prompt for all of them").fill("Tell me a story");
      await button(page, "Ask all of them");
      await button(page, "Model 2 is better");
    },
    sees: "Your vote is preference data now.",
  },
  "compare-one": {
    before: (server) => (server.models = [demo]),
    hash: "#/compare",
    sees: "Comparing takes two models",
  },
};

function wait(ms: number) {
  return (page: Page) => page.waitForTimeout(ms);
}

async function charts(page: Page): Promise<void> {
  await page.locator(".drawing canvas").first().waitFor();
}

describe("every state, at three widths, light and dark", () => {
  for (const [name, { before, hash = "", act, sees }] of Object.entries(states))
    it(name, async (test) => {
      const faults: string[] = [];
      const server = await anew();
      before?.(server);
      const where = typeof hash === "string" ? hash : hash(server);
      // One tab for all widths and both themes: what a person did stays.
      const { page } = await open(test, where, { viewport: sizes[0]!, colorScheme: "light" });
      await until(async () => (await page.locator("#root > *").count()) > 0);
      await act?.(page, server);
      for (const viewport of sizes) {
        await page.setViewportSize(viewport);
        if (name !== "app-loading") await see(page, sees);
        for (const scheme of ["light", "dark"] as const) {
          await page.emulateMedia({ colorScheme: scheme });
          await page.screenshot({ path: path.join(pictures, `${name}-${viewport.width}-${scheme}.png`) });
          const found = await axeFaults(page);
          faults.push(...found.map((fault) => `${viewport.width} ${scheme} ${fault}`));
        }
        const sideways = await overflow(page);
        if (sideways > 0) faults.push(`scrolls sideways by ${sideways} at ${viewport.width}`);
        faults.push(...(await tableFaults(page)));
      }
      await page.setViewportSize({ width: 320, height: 640 });
      const sideways = await overflow(page);
      if (sideways > 0) faults.push(`scrolls sideways by ${sideways} at 320`);
      expect(faults).toEqual([]);
    });
});
