import { readFileSync } from "node:fs";
import { Ajv2020 } from "ajv/dist/2020.js";

const schemas = JSON.parse(readFileSync(new URL("../fixtures/openai_schemas.json", import.meta.url), "utf8"));
const ajv = new Ajv2020({ strict: false, allErrors: false }).addSchema(schemas, "openai");

/** The schemas of a path's bodies and of the events of its streams. */
const PATHS: readonly (readonly [path: RegExp, body: string, event?: string])[] = [
  [/^\/v1\/completions$/, "CreateCompletionResponse", "CompletionChunk"],
  [/^\/v1\/chat\/completions$/, "CreateChatCompletionResponse", "CreateChatCompletionStreamResponse"],
  [/^\/v1\/responses$/, "Response", "ResponseStreamEvent"],
  [/^\/v1\/embeddings$/, "CreateEmbeddingResponse"],
  [/^\/v1\/models$/, "ListModelsResponse"],
  [/^\/v1\/models\/(?!unload$)./, "Model"],
];

/** @throws Error that names the first place where a value is not as a schema of tests/fixtures/openai_schemas.json says. */
export function checkSchema(name: string, value: unknown): void {
  const validate = ajv.getSchema(`openai#/$defs/${name}`);
  if (validate === undefined) throw new Error(`there is no schema ${name}`);
  if (validate(value)) return;
  const text = JSON.stringify(value)?.slice(0, 1000);
  throw new Error(`not a valid ${name}: ${ajv.errorsText(validate.errors)} in ${text}`);
}

/** Checks what a server sent as OpenAI's clients would read it: bodies by their paths, failures, and each event of a stream. */
export function checkAnswer(path: string, { ok, headers }: Response, text: string): void {
  const type = headers.get("content-type") ?? "";
  const [, body, event] = PATHS.find(([pattern]) => pattern.test(path)) ?? [];
  // Ollama's clients read errors of their own form.
  if (!ok && path.startsWith("/api/")) {
    const failure = JSON.parse(text);
    if (Object.keys(failure).join() !== "error" || typeof failure.error !== "string")
      throw new Error(`not an error of Ollama's: ${text}`);
  } else if (!ok) checkSchema("ErrorResponse", JSON.parse(text));
  else if (type.startsWith("text/event-stream")) {
    for (const line of text.split("\n").filter((one) => one.startsWith("data: ") && one !== "data: [DONE]")) {
      const data = JSON.parse(line.slice(6));
      checkSchema("error" in data && !("type" in data) ? "ErrorResponse" : event!, data);
    }
  } else if (body !== undefined) checkSchema(body, JSON.parse(text));
}
