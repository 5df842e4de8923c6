import type { Usage } from "../protocol.ts";
import {
  asked,
  type Dialect,
  DialectError,
  errorIn,
  jsonOf,
  type Piece,
  type ProviderCall,
  tokens,
} from "./provider.ts";

interface Chunk {
  choices?: {
    delta?: { content?: unknown };
    message?: { content?: unknown };
    finish_reason?: unknown;
    logprobs?: { content?: { logprob?: unknown }[] | null } | null;
  }[];
  usage?: {
    prompt_tokens?: unknown;
    completion_tokens?: unknown;
    prompt_tokens_details?: { cached_tokens?: unknown } | null;
  } | null;
}

/**
 * OpenAI's chat completions, as OpenAI and many others have them, kiln too. `prefill`: the server goes on writing a last message of
 * the assistant (`continue_final_message`, as vLLM and kiln do).
 */
export function openai({ baseUrl, prefill }: { baseUrl: URL; prefill: boolean }): Dialect {
  // Newer models of OpenAI itself refuse the field that everybody else knows.
  const most = baseUrl.hostname === "api.openai.com" ? "max_completion_tokens" : "max_tokens";
  return {
    list: { path: "models", names: (body) => namesIn(body, "data", "id") },
    request(call) {
      const { model, params, scores, continues } = call;
      const { max_tokens, ...sampling } = params;
      const goesOn =
        continues && prefill ? { add_generation_prompt: false, continue_final_message: true } : {};
      return {
        path: "chat/completions",
        body: {
          ...{ model, messages: asked(call, prefill), ...sampling },
          ...(max_tokens === undefined ? {} : { [most]: max_tokens }),
          ...{ stream: true, stream_options: { include_usage: true } },
          ...(scores ? { logprobs: true } : {}),
          ...goesOn,
        },
      };
    },
    read: readEvents,
  };
}

async function* readEvents(lines: AsyncIterable<string>): AsyncGenerator<Piece> {
  let whole = "";
  let finished = false;
  for await (const line of lines) {
    // A server that does not stream answers with one object, over any number of lines.
    if (whole !== "" || line.startsWith("{")) {
      whole += `${line}\n`;
      continue;
    }
    if (!line.startsWith("data:")) continue;
    const data = line.slice("data:".length).trim();
    if (data === "[DONE]") {
      if (!finished) yield { finish: "stop" };
      return;
    }
    for (const piece of piecesOf(jsonOf(data))) {
      finished ||= piece.finish !== undefined;
      yield piece;
    }
  }
  if (whole !== "") yield* piecesOf(jsonOf(whole));
}

function* piecesOf(body: unknown): Generator<Piece> {
  const failed = errorIn(body);
  if (failed !== null) throw new DialectError(`it says: ${failed}`);
  const { choices, usage } = body as Chunk;
  const [choice] = Array.isArray(choices) ? choices : [];
  if (usage) yield { usage: usageOf(usage) };
  if (!choice) return;
  const text = choice.delta?.content ?? choice.message?.content ?? "";
  if (typeof text !== "string") throw new DialectError("its answer has a content that is no text");
  const logprobs = (choice.logprobs?.content ?? []).map(({ logprob }) => Number(logprob));
  if (text !== "" || logprobs.length > 0) yield { text, logprobs };
  if (choice.finish_reason != null) yield { finish: choice.finish_reason === "length" ? "length" : "stop" };
}

const usageOf = (usage: NonNullable<Chunk["usage"]>): Usage => ({
  prompt_tokens: tokens(usage.prompt_tokens),
  completion_tokens: tokens(usage.completion_tokens),
  cached_tokens: tokens(usage.prompt_tokens_details?.cached_tokens),
  estimated: false,
});

/** The names in a list of models. */
export function namesIn(body: unknown, list: string, name: string): string[] {
  const rows = (body as Record<string, unknown> | null)?.[list];
  if (!Array.isArray(rows)) return [];
  return rows.map((row) => String((row as Record<string, unknown> | null)?.[name]));
}

/** Hugging Face's inference: chats as OpenAI has them, and the routes of two tasks, whose answers become a line for each row. */
export function hfInference(options: { baseUrl: URL; prefill: boolean }): Dialect {
  const chat = openai(options);
  return {
    list: null,
    request(call) {
      if (call.task === "chat") return chat.request(call);
      return { path: `models/${call.model}`, body: { inputs: call.turns.at(-1)?.content ?? "" } };
    },
    read: (lines, call) => (call.task === "chat" ? chat.read(lines, call) : readTask(lines, call)),
  };
}

async function* readTask(lines: AsyncIterable<string>, { task }: ProviderCall): AsyncGenerator<Piece> {
  let whole = "";
  for await (const line of lines) whole += line;
  const body = jsonOf(whole);
  const failed = errorIn(body);
  if (failed !== null) throw new DialectError(`it says: ${failed}`);
  const rows = [body].flat(2) as { label?: unknown; token_str?: unknown; score?: unknown }[];
  const text = rows.map((row) => {
    const name = task === "fill-mask" ? row.token_str : row.label;
    if (typeof name !== "string" || typeof row.score !== "number")
      throw new DialectError(`its answer is none of ${task}`);
    return `${name.trim()} ${row.score.toFixed(4)}`;
  });
  yield { text: text.join("\n") };
  yield { finish: "stop" };
}
