import { namesIn } from "./openai.ts";
import { type Dialect, DialectError, errorIn, jsonOf, type Piece, tokens } from "./provider.ts";

/** Ollama's `/api/chat`: one JSON object a line; a last message of the assistant is gone on with. */
export const ollama: Dialect = {
  list: { path: "api/tags", names: (body) => namesIn(body, "models", "name").flatMap(withoutTag) },
  request({ model, turns, params: { max_tokens, ...sampling } }) {
    const options = { ...sampling, ...(max_tokens === undefined ? {} : { num_predict: max_tokens }) };
    return { path: "api/chat", body: { model, messages: turns, stream: true, options } };
  },
  async *read(lines) {
    for await (const line of lines) if (line.trim() !== "") yield* piecesOf(jsonOf(line));
  },
};

/** `latest` may be left out of a name. */
const withoutTag = (name: string) => (name.endsWith(":latest") ? [name, name.slice(0, -7)] : [name]);

function* piecesOf(body: unknown): Generator<Piece> {
  const failed = errorIn(body);
  if (failed !== null) throw new DialectError(`it says: ${failed}`);
  const { message, done, done_reason, prompt_eval_count, eval_count } = body as Record<string, unknown>;
  const text = (message as { content?: unknown } | undefined)?.content ?? "";
  if (typeof text !== "string") throw new DialectError("its answer has a content that is no text");
  if (text !== "") yield { text };
  if (done !== true) return;
  if (eval_count !== undefined)
    yield {
      usage: {
        prompt_tokens: tokens(prompt_eval_count),
        completion_tokens: tokens(eval_count),
        cached_tokens: 0,
        estimated: false,
      },
    };
  yield { finish: done_reason === "length" ? "length" : "stop" };
}
