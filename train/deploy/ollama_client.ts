import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { stat } from "node:fs/promises";
import { Readable } from "node:stream";
import { KilnError } from "../../core/errors.ts";
import { firstLine } from "../../core/platform/files.ts";

/** What `POST /api/create` makes a model of; files by name, as digests of blobs. */
export interface CreateRequest {
  model: string;
  files: Record<string, string>;
  adapters?: Record<string, string>;
  template?: string;
  parameters: { stop: string[]; num_ctx: number };
}

/** The requests to an Ollama server (its docs/api.md) that a deployment makes. Each throws a one-line KilnError. */
export class OllamaClient {
  readonly #url: string;
  readonly #signal: AbortSignal | undefined;

  constructor(url: string, signal?: AbortSignal) {
    this.#url = url.replace(/\/+$/, "");
    this.#signal = signal;
  }

  async version(): Promise<string> {
    const { version } = (await this.#json("GET", "/api/version")) as { version?: string };
    if (typeof version === "string") return version;
    throw this.#error("what answers there is no Ollama: /api/version names no version");
  }

  /** Sends a file, unless the server has it already; its digest, and whether it was sent. */
  async upload(path: string): Promise<{ digest: string; sent: boolean }> {
    const hash = createHash("sha256");
    for await (const chunk of createReadStream(path)) hash.update(chunk as Buffer);
    const digest = `sha256:${hash.digest("hex")}`;
    const known = await this.#send("HEAD", `/api/blobs/${digest}`);
    if (known.ok) return { digest, sent: false };
    const { size } = await stat(path);
    const body = Readable.toWeb(createReadStream(path)) as unknown as BodyInit;
    const headers = { "content-length": `${size}`, "content-type": "application/octet-stream" };
    await this.#checked("POST", `/api/blobs/${digest}`, { body, headers, duplex: "half" } as RequestInit);
    return { digest, sent: true };
  }

  /** Makes a model of blobs; `onStatus` is told how far it is. */
  async create(request: CreateRequest, onStatus: (status: string) => void): Promise<void> {
    const answer = await this.#checked("POST", "/api/create", json({ ...request, stream: true }));
    let last = "";
    for await (const line of this.#lines(answer)) {
      const { status, error } = line as { status?: string; error?: string };
      if (error !== undefined) throw this.#error(`it could not make the model: ${error}`);
      if (status !== undefined && status !== last) onStatus(status);
      last = status ?? last;
    }
    if (last !== "success") throw this.#error(`it stopped making the model after "${last}"`);
  }

  /** The likeliest `tokens` tokens after a prompt as it is, without a template. */
  async continuation(model: string, prompt: string, tokens: number): Promise<string> {
    // Ollama's own defaults draw at random and make what was said less likely.
    const options = {
      temperature: 0,
      num_predict: tokens,
      repeat_penalty: 1,
      repeat_last_n: 0,
      seed: 0,
      stop: [],
    };
    const body = { model, prompt, raw: true, stream: false, options };
    const { response } = (await this.#json("POST", "/api/generate", json(body))) as { response?: unknown };
    if (typeof response === "string") return response;
    throw this.#error("its /api/generate answered without a response");
  }

  async copy(source: string, destination: string): Promise<void> {
    await this.#checked("POST", "/api/copy", json({ source, destination }));
  }

  async delete(model: string): Promise<void> {
    await this.#checked("DELETE", "/api/delete", json({ model }));
  }

  async #json(method: string, path: string, init: RequestInit = {}): Promise<unknown> {
    const text = await (await this.#checked(method, path, init)).text().catch((error) => {
      throw this.#error(`its answer to ${path} broke off: ${firstLine(error)}`);
    });
    return this.#parse(text);
  }

  #parse(text: string): unknown {
    try {
      return JSON.parse(text) ?? {};
    } catch (cause) {
      throw this.#error(`it answered with what is no JSON: ${text.slice(0, 60)}`, cause);
    }
  }

  async *#lines(answer: Response): AsyncGenerator<unknown> {
    let rest = "";
    const decoder = new TextDecoder();
    try {
      for await (const chunk of answer.body as unknown as AsyncIterable<Uint8Array>) {
        const lines = (rest + decoder.decode(chunk, { stream: true })).split("\n");
        rest = lines.pop()!;
        for (const line of lines) if (line.trim() !== "") yield this.#parse(line);
      }
    } catch (error) {
      if (error instanceof KilnError) throw error;
      throw this.#error(`its answer broke off: ${firstLine(error)}`, error);
    }
    if (rest.trim() !== "") yield this.#parse(rest);
  }

  async #checked(method: string, path: string, init: RequestInit = {}): Promise<Response> {
    const answer = await this.#send(method, path, init);
    if (answer.ok) return answer;
    const text = await answer.text().catch(() => "");
    let reason = text.slice(0, 300);
    try {
      reason = String((JSON.parse(text) as { error?: unknown }).error ?? reason);
    } catch {}
    throw this.#error(`it answered ${method} ${path} with ${answer.status}: ${firstLine(reason)}`);
  }

  async #send(method: string, path: string, init: RequestInit = {}): Promise<Response> {
    try {
      return await fetch(`${this.#url}${path}`, { ...init, method, signal: this.#signal ?? null });
    } catch (error) {
      if (this.#signal?.aborted) throw new KilnError("stopped", { exitCode: 130, cause: error });
      const { cause } = error as { cause?: { code?: string; message?: string } };
      if (cause?.code === "ECONNREFUSED")
        throw this.#error("nothing answers there: start it with `ollama serve`, or give --url", error);
      throw this.#error(`the connection failed: ${firstLine(cause ?? error)}`, error);
    }
  }

  #error(problem: string, cause?: unknown): KilnError {
    return new KilnError(`Ollama at ${this.#url}: ${problem}`, { code: "ollama_failed", cause });
  }
}

const json = (body: object): RequestInit => ({
  body: JSON.stringify(body),
  headers: { "content-type": "application/json" },
});
