import { afterAll, afterEach, beforeAll, expect } from "vitest";
import { fakeChatTokenizer, IDLE, idle, send, startServer, type TestServer, until } from "../serve_fake.ts";

export const MODEL = "tiny/fake";

/** An event of a chat's stream, as far as the tests look. */
export interface Chunk {
  id: string;
  created: number;
  choices: {
    index: number;
    delta: {
      role?: string;
      content?: string | null;
      tool_calls?: { index: number; id?: string; function: { name?: string; arguments: string } }[];
    };
    finish_reason: string | null;
    logprobs: { content: { token: string; bytes: number[] | null }[] } | null;
  }[];
  usage?: { total_tokens: number } | null;
}

export const user = (content: unknown) => ({ role: "user", content });
const base = { model: MODEL, messages: [user("once upon a time")], temperature: 0, max_tokens: 16 };

/** The deltas of one choice. */
export const of = (chunks: readonly Chunk[], index: number) =>
  chunks.flatMap(({ choices }) => choices.filter((choice) => choice.index === index));

/** A server over a fake model that chats, for all tests of the file; each must leave it idle. */
export function fakeChat(maxModelLen: number) {
  let server: TestServer;
  beforeAll(async () => {
    server = await startServer({ tokenizer: fakeChatTokenizer(), maxModelLen });
  });
  afterEach(async () => {
    server.runner.says = null;
    await until(() => JSON.stringify(idle(server.engine)) === JSON.stringify(IDLE));
  });
  afterAll(() => server.server.close());
  const post = (fields: object, to = server) =>
    send(`${to.url}/v1/chat/completions`, { json: { ...base, ...fields } });
  async function chunksOf(fields: object): Promise<Chunk[]> {
    const { status, headers, text } = await post({ ...fields, stream: true });
    expect([status, headers.get("cache-control")]).toEqual([200, "no-cache"]);
    const events = text.split("\n\n");
    expect(events.splice(-2)).toEqual(["data: [DONE]", ""]);
    return events.map((event) => JSON.parse(event.slice("data: ".length)));
  }
  return {
    post,
    chunksOf,
    get server() {
      return server;
    },
  };
}
