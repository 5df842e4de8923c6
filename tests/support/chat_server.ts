import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll } from "vitest";
import { Application } from "../../serve/app/application.ts";
import type { AnswerSource } from "../../serve/app/chat/answers.ts";
import { localAnswers } from "../../serve/app/chat/local_answers.ts";
import { hostOf } from "../../serve/app/index.ts";
import type { UserMode } from "../../serve/app/user_mode.ts";
import type { ModelPool } from "../../serve/models.ts";
import { openBlobs, openStore } from "../../serve/store/index.ts";
import { fakeChatTokenizer, startServer } from "../serve_fake.ts";

/** Of the stores of a test file's servers. */
const folder = mkdtempSync(path.join(tmpdir(), "kiln-routes-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** A server over the fake model that keeps conversations in a store of its own. */
export async function chatServer(
  name: string,
  mode: UserMode,
  options: Parameters<typeof startServer>[0] = {},
  sourceOf: (models: ModelPool) => AnswerSource = localAnswers,
) {
  const file = path.join(folder, name, "kiln.db");
  const host = hostOf(mode, async () =>
    Application.open({
      ...{ mode, store: await openStore(`sqlite:${file}`), times: { flushMs: 5 } },
      blobs: await openBlobs(`fs:${path.join(folder, name, "blobs")}`),
      models: made.server.models,
      source: sourceOf(made.server.models),
    }),
  );
  const tokenizer = fakeChatTokenizer();
  const made = await startServer({ tokenizer, maxModelLen: 256, application: host, ...options });
  const ask = async (
    method: string,
    target: string,
    json?: unknown,
    headers: Record<string, string> = {},
  ) => {
    const body = json === undefined ? {} : { body: JSON.stringify(json) };
    const type: Record<string, string> = json === undefined ? {} : { "content-type": "application/json" };
    const response = await fetch(made.url + target, { method, ...body, headers: { ...type, ...headers } });
    const text = await response.text();
    const isJson = response.headers.get("content-type")?.includes("json");
    return {
      status: response.status,
      headers: response.headers,
      text,
      body: isJson ? JSON.parse(text) : null,
    };
  };
  return { ...made, host, file, ask };
}
export type ChatServer = Awaited<ReturnType<typeof chatServer>>;

/** The events of an SSE body, and the id of each. */
export const eventsOf = (text: string) =>
  text
    .split("\n\n")
    .filter((block) => block.includes("data: "))
    .map((block) => ({
      id: /^id: (\d+)$/m.exec(block)?.[1],
      ...JSON.parse(/^data: (.*)$/m.exec(block)![1]!),
    }));
