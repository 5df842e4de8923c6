import { readFileSync } from "node:fs";
import { Ajv2020 } from "ajv/dist/2020.js";

const read = (path: string) => JSON.parse(readFileSync(new URL(path, import.meta.url), "utf8"));
const ajv = new Ajv2020({ strict: false, allErrors: false })
  .addSchema(read("../../serve/http/openai_answers.json"), "openai")
  .addSchema(read("../fixtures/openai_requests.json"), "requests");

/** The schemas of what a path takes, what it answers, and the events of its streams. */
export const PATHS: readonly {
  readonly path: RegExp;
  readonly request?: string;
  readonly body: string;
  readonly event?: string;
}[] = [
  {
    path: /^\/v1\/completions$/,
    request: "CreateCompletionRequest",
    body: "CreateCompletionResponse",
    event: "CompletionChunk",
  },
  {
    path: /^\/v1\/chat\/completions$/,
    request: "CreateChatCompletionRequest",
    body: "CreateChatCompletionResponse",
    event: "CreateChatCompletionStreamResponse",
  },
  {
    path: /^\/v1\/responses$/,
    request: "CreateResponse",
    body: "Response",
    event: "ResponseStreamEvent",
  },
  { path: /^\/v1\/embeddings$/, request: "CreateEmbeddingRequest", body: "CreateEmbeddingResponse" },
  { path: /^\/v1\/models$/, body: "ListModelsResponse" },
  { path: /^\/v1\/models\/(?!unload$)./, body: "Model" },
];
const schemasOf = (path: string) => PATHS.find((one) => one.path.test(path));

/** @throws Error that names the first place where a value is not as a schema of serve/http/openai_answers.json says. */
export function checkSchema(name: string, value: unknown, of = "openai"): void {
  const validate = ajv.getSchema(`${of}#/$defs/${name}`);
  if (validate === undefined) throw new Error(`there is no schema ${name}`);
  if (validate(value)) return;
  const text = JSON.stringify(value)?.slice(0, 1000);
  throw new Error(`not a valid ${name}: ${ajv.errorsText(validate.errors)} in ${text}`);
}

/** Checks the JSON body of a request that a server accepted: what it should have refused is not hidden by its answer. */
export function checkRequest(path: string, { ok }: Response, body: unknown): void {
  const name = schemasOf(path)?.request;
  if (!ok || name === undefined || typeof body !== "string") return;
  checkSchema(name, JSON.parse(body.replace(/^\ufeff/, "")), "requests");
}

/** Checks one event of a stream, with the lines around its data or without. */
export function checkEvent(path: string, text: string): void {
  const line = text.split("\n").find((one) => one.startsWith("data: "));
  if (line === undefined || line === "data: [DONE]") return;
  const data = JSON.parse(line.slice(6));
  checkSchema("error" in data && !("type" in data) ? "ErrorResponse" : schemasOf(path)!.event!, data);
}

/** Checks what a server sent as OpenAI's clients would read it: bodies by their paths, failures, and each event of a stream. */
export function checkAnswer(path: string, { ok, headers }: Response, text: string): void {
  const type = headers.get("content-type") ?? "";
  const body = schemasOf(path)?.body;
  // Ollama's clients read errors of their own form.
  if (!ok && path.startsWith("/api/")) {
    const failure = JSON.parse(text);
    if (Object.keys(failure).join() !== "error" || typeof failure.error !== "string")
      throw new Error(`not an error of Ollama's: ${text}`);
  } else if (!ok) checkSchema("ErrorResponse", JSON.parse(text));
  else if (type.startsWith("text/event-stream")) {
    for (const event of text.split("\n\n")) checkEvent(path, event);
  } else if (body !== undefined) checkSchema(body, JSON.parse(text));
}
