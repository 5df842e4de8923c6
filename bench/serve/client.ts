import type { Clock, Sample } from "./load.ts";
import type { LoadRequest } from "./workload.ts";

export interface Target {
  /** Of the server, without /v1. */
  readonly url: string;
  readonly model: string;
  readonly chat: boolean;
  readonly apiKey: string | undefined;
  /** Further fields of each request. */
  readonly fields: Readonly<Record<string, unknown>>;
  readonly timeoutMs: number;
}

interface Chunk {
  choices?: { text?: string; delta?: { content?: string | null }; finish_reason?: string | null }[];
  usage?: { prompt_tokens: number; completion_tokens: number } | null;
  error?: { message?: string };
}

const headersOf = ({ apiKey }: Pick<Target, "apiKey">) => ({
  "content-type": "application/json",
  ...(apiKey === undefined ? {} : { authorization: `Bearer ${apiKey}` }),
});

/** The name of the first model of a server. */
export async function firstModel(target: Pick<Target, "url" | "apiKey">): Promise<string> {
  const response = await fetch(`${target.url}/v1/models`, { headers: headersOf(target) });
  const { data } = (await response.json()) as { data?: { id: string }[] };
  if (data?.[0] === undefined)
    throw new Error(`${target.url}/v1/models answered ${response.status} without a model`);
  return data[0].id;
}

/** Sends one request, reads its stream and times its pieces. Failures are samples too. */
export async function askServer(target: Target, request: LoadRequest, clock: Clock): Promise<Sample> {
  const start = clock.now();
  const times: number[] = [];
  let usage: Chunk["usage"] = null;
  const sample = (error: string | null): Sample => ({
    ttft: (times[0] ?? clock.now()) - start,
    itl: times.slice(1).map((time, i) => time - times[i]),
    e2e: clock.now() - start,
    promptTokens: usage?.prompt_tokens ?? 0,
    // A server that does not say counts by its pieces.
    outputTokens: usage?.completion_tokens ?? times.length,
    error,
  });
  try {
    const response = await fetch(`${target.url}/v1/${target.chat ? "chat/completions" : "completions"}`, {
      method: "POST",
      headers: headersOf(target),
      body: JSON.stringify(bodyOf(target, request)),
      signal: AbortSignal.timeout(target.timeoutMs),
    });
    if (!response.ok || response.body === null)
      return sample(`status ${response.status}: ${await messageOf(response)}`);
    let ended = false;
    for await (const chunk of chunksOf(response.body)) {
      if (chunk.error) return sample(`error in the stream: ${chunk.error.message}`);
      usage = chunk.usage ?? usage;
      const [choice] = chunk.choices ?? [];
      if (choice?.text || choice?.delta?.content) times.push(clock.now());
      ended ||= choice?.finish_reason != null;
    }
    return sample(ended ? null : "the stream broke off");
  } catch (error) {
    const { message, cause } = error as Error;
    return sample(cause instanceof Error ? `${message}: ${cause.message}` : message);
  }
}

function bodyOf({ model, chat, fields }: Target, { prompt, maxTokens }: LoadRequest) {
  const asked = chat ? { messages: [{ role: "user", content: prompt }] } : { prompt };
  return {
    model,
    ...asked,
    max_tokens: maxTokens,
    stream: true,
    stream_options: { include_usage: true },
    ...fields,
  };
}

async function messageOf(response: Response): Promise<string> {
  const text = await response.text();
  try {
    return (JSON.parse(text) as Chunk).error?.message ?? text.slice(0, 200);
  } catch {
    return text.slice(0, 200);
  }
}

/** The events of a stream, up to [DONE]. */
async function* chunksOf(body: ReadableStream<Uint8Array>): AsyncGenerator<Chunk> {
  const decoder = new TextDecoder();
  let rest = "";
  for await (const bytes of body as unknown as AsyncIterable<Uint8Array>) {
    const lines = (rest + decoder.decode(bytes, { stream: true })).split(/\r?\n/);
    rest = lines.pop()!;
    for (const line of lines) {
      const data = /^data: ?(.*)$/.exec(line)?.[1];
      if (data !== undefined && data !== "[DONE]") yield JSON.parse(data) as Chunk;
    }
  }
}
