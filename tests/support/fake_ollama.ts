import { createHash } from "node:crypto";
import { mkdirSync, renameSync, writeFileSync } from "node:fs";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";

/** A model that was created: its GGUF files, and the rest of the request. */
export interface Created {
  model: string;
  adapter: string | null;
  request: Record<string, unknown>;
}

/** What runs a model's files. */
export type Answer = (model: Created, prompt: string, options: Record<string, unknown>) => Promise<string>;

/** What goes wrong at a request, by its method and path, e.g. `POST /api/create`. */
export type Fault = (response: ServerResponse) => void;

/**
 * What `kiln deploy ollama` needs of an Ollama server, on loopback. Blobs are files whose digests are checked; a model answers by
 * `answer`, which runs its files. Only the protocol is Ollama's.
 */
export class FakeOllama {
  readonly models = new Map<string, Created>();
  readonly requests: string[] = [];
  readonly faults = new Map<string, Fault>();
  readonly #folder: string;
  readonly #blobs = new Map<string, string>();
  readonly #answer: Answer;
  readonly #server: Server;

  private constructor(folder: string, answer: Answer) {
    this.#folder = folder;
    this.#answer = answer;
    mkdirSync(folder, { recursive: true });
    this.#server = createServer((request, response) => {
      this.#handle(request, response).catch((error) => {
        if (!response.headersSent) response.writeHead(500);
        response.end(JSON.stringify({ error: `${error.message}` }));
      });
    });
  }

  static async start(folder: string, answer: Answer): Promise<FakeOllama> {
    const fake = new FakeOllama(folder, answer);
    await new Promise<void>((resolve) => fake.#server.listen(0, "127.0.0.1", resolve));
    return fake;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  close(): void {
    this.#server.closeAllConnections();
    this.#server.close();
  }

  async #handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { method = "", url = "" } = request;
    const what = `${method} ${url.replace(/sha256:.*/, "")}`;
    this.requests.push(what);
    const fault = this.faults.get(what);
    if (fault) {
      request.resume();
      return fault(response);
    }
    if (url.startsWith("/api/blobs/")) return this.#blob(request, response, url.slice("/api/blobs/".length));
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    const body = chunks.length > 0 ? JSON.parse(Buffer.concat(chunks).toString()) : {};
    if (what === "GET /api/version") response.end('{"version":"0.0.0-fake"}');
    else if (what === "POST /api/create") this.#create(body, response);
    else if (what === "POST /api/generate") {
      const model = this.#model(body.model);
      if (body.raw !== true || body.stream !== false) throw new Error("only raw and whole answers");
      response.end(
        JSON.stringify({ response: await this.#answer(model, body.prompt, body.options), done: true }),
      );
    } else if (what === "POST /api/copy") {
      this.models.set(body.destination, this.#model(body.source));
      response.end();
    } else if (what === "DELETE /api/delete") {
      this.#model(body.model);
      this.models.delete(body.model);
      response.end();
    } else response.writeHead(404).end();
  }

  #model(name: string): Created {
    const model = this.models.get(name);
    if (!model) throw new Error(`model '${name}' not found`);
    return model;
  }

  async #blob(request: IncomingMessage, response: ServerResponse, digest: string): Promise<void> {
    if (request.method === "HEAD") return void response.writeHead(this.#blobs.has(digest) ? 200 : 404).end();
    const hash = createHash("sha256");
    const chunks: Buffer[] = [];
    for await (const chunk of request) {
      hash.update(chunk as Buffer);
      chunks.push(chunk as Buffer);
    }
    if (`sha256:${hash.digest("hex")}` !== digest)
      return void response.writeHead(400).end('{"error":"digest mismatch"}');
    const path = join(this.#folder, `${digest.slice(7, 23)}.gguf`);
    writeFileSync(`${path}.part`, Buffer.concat(chunks));
    renameSync(`${path}.part`, path);
    this.#blobs.set(digest, path);
    response.writeHead(201).end();
  }

  #create(request: Record<string, unknown>, response: ServerResponse): void {
    const fileOf = (files: unknown) => {
      const [digest] = Object.values((files ?? {}) as Record<string, string>);
      if (digest !== undefined && !this.#blobs.has(digest)) throw new Error(`no blob ${digest}`);
      return digest === undefined ? null : this.#blobs.get(digest)!;
    };
    const model = fileOf(request.files);
    if (model === null) throw new Error("neither from nor files were given");
    const { model: name, ...rest } = request;
    this.models.set(name as string, { model, adapter: fileOf(request.adapters), request: rest });
    for (const status of ["parsing GGUF", "writing manifest", "success"])
      response.write(`${JSON.stringify({ status })}\n`);
    response.end();
  }
}
