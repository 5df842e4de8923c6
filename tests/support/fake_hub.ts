import { createHash } from "node:crypto";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

/** What goes wrong with one request for the bytes of a file. Offsets count from the first byte that is asked for. */
export type Fault =
  | { kind: "drop" | "truncate"; after: number }
  | { kind: "status"; status: number; retryAfter?: string }
  | { kind: "corrupt" | "ignoreRange" | "wrongRange" | "tooLong" | "stall" };

interface FakeRepository {
  commit: string;
  files: Map<string, Buffer>;
  /** Files of this size and more are stored elsewhere, as the hub does with what is in Git LFS. */
  largeFrom: number;
  /** Names that are listed besides the files. */
  listed: string[];
  /** Sizes that the list tells instead of the true ones. */
  claims: Record<string, number>;
  tellsBlobs: boolean;
  needsToken: string | null;
}

export interface SeenRequest {
  server: "hub" | "storage";
  method: string;
  url: string;
  authorization: string | undefined;
  range: string | undefined;
}

export const gitHash = (content: Buffer) =>
  createHash("sha1").update(`blob ${content.length}\0`).update(content).digest("hex");
export const sha256 = (content: Buffer) => createHash("sha256").update(content).digest("hex");

/** A model hub on this machine that speaks Hugging Face's protocol, with a second server that stores the large files. */
export class FakeHub {
  readonly requests: SeenRequest[] = [];
  /** What goes wrong, by file, one entry for each request of its bytes; after the last all goes well. */
  readonly faults = new Map<string, Fault[]>();
  /** The same for requests of the list. */
  readonly listFaults: Fault[] = [];
  readonly #repositories = new Map<string, FakeRepository>();
  readonly #hub: Server;
  readonly #storage: Server;

  private constructor() {
    const serve = (handle: (request: IncomingMessage, response: ServerResponse) => void) =>
      createServer(handle).listen(0, "127.0.0.1");
    this.#hub = serve((request, response) => this.#answer(request, response));
    this.#storage = serve((request, response) => {
      this.#see("storage", request);
      const [, repository, path] = decodeURIComponent(request.url!).match(/^\/store\/(.*)\/-\/(.*)$/)!;
      this.#sendBytes(request, response, path, this.#repositories.get(repository)!.files.get(path)!);
    });
  }

  static async start(): Promise<FakeHub> {
    const hub = new FakeHub();
    const servers = [hub.#hub, hub.#storage];
    await Promise.all(servers.map((server) => new Promise((resolve) => server.once("listening", resolve))));
    return hub;
  }

  get endpoint(): string {
    return addressOf(this.#hub);
  }

  /** Adds a repository, or a new commit of it. */
  add(name: string, files: Record<string, string | Buffer>, options: Partial<FakeRepository> = {}): string {
    const contents = Object.entries(files).map(([path, content]) => [path, Buffer.from(content)] as const);
    const commit = createHash("sha1").update(JSON.stringify(contents)).digest("hex");
    const defaults = { commit, largeFrom: 1000, listed: [], claims: {}, tellsBlobs: true, needsToken: null };
    this.#repositories.set(name, { ...defaults, files: new Map(contents), ...options });
    return commit;
  }

  async close(): Promise<void> {
    for (const server of [this.#hub, this.#storage]) {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    }
  }

  #see(server: SeenRequest["server"], { method, url, headers }: IncomingMessage): void {
    const { authorization, range } = headers;
    this.requests.push({ server, method: method!, url: url!, authorization, range });
  }

  #answer(request: IncomingMessage, response: ServerResponse): void {
    this.#see("hub", request);
    const url = new URL(request.url!, this.endpoint);
    const list = url.pathname.match(/^\/api\/models\/(.+)\/revision\/(.+)$/);
    const file = url.pathname.match(/^\/(.+)\/resolve\/([^/]+)\/(.+)$/);
    const repository = this.#repositories.get((list ?? file)?.[1] ?? "");
    if (
      !repository ||
      (repository.needsToken && request.headers.authorization !== `Bearer ${repository.needsToken}`)
    ) {
      response.writeHead(401, { "x-error-code": "RepoNotFound" }).end("Invalid username or password.");
      return;
    }
    const revision = decodeURIComponent((list ?? file)![2]);
    if (!["main", "v1", repository.commit].includes(revision)) {
      response.writeHead(404, { "x-error-code": "RevisionNotFound" }).end();
      return;
    }
    if (list) this.#sendList(response, list[1], repository, url.searchParams.get("blobs") === "true");
    else this.#sendFile(request, response, file![1], repository, decodeURIComponent(file![3]));
  }

  #sendList(response: ServerResponse, id: string, repository: FakeRepository, blobs: boolean): void {
    const fault = this.listFaults.shift();
    if (fault) {
      if (fault.kind === "status") sendStatus(response, fault);
      else response.socket!.destroy();
      return;
    }
    const siblings = [...repository.files].map(([rfilename, content]) => {
      if (!blobs || !repository.tellsBlobs) return { rfilename };
      const size = repository.claims[rfilename] ?? content.length;
      const lfs = { size, sha256: sha256(content), pointerSize: 134 };
      const own = { rfilename, size, blobId: gitHash(content) };
      return content.length >= repository.largeFrom ? { ...own, blobId: "0".repeat(40), lfs } : own;
    });
    const others = repository.listed.map((rfilename) => ({ rfilename }));
    const body = { id, sha: repository.commit, siblings: [...siblings, ...others] };
    response.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify(body));
  }

  #sendFile(
    request: IncomingMessage,
    response: ServerResponse,
    id: string,
    repository: FakeRepository,
    path: string,
  ): void {
    const content = repository.files.get(path);
    if (!content) {
      response.writeHead(404, { "x-error-code": "EntryNotFound" }).end();
      return;
    }
    if (content.length < repository.largeFrom) {
      response.setHeader("etag", `"${gitHash(content)}"`);
      this.#sendBytes(request, response, path, content);
      return;
    }
    const location = `${addressOf(this.#storage)}/store/${id}/-/${encodeURIComponent(path)}`;
    const linked = { "x-linked-etag": `"${sha256(content)}"`, "x-linked-size": `${content.length}` };
    response.writeHead(302, { location, ...linked, "content-length": "0" }).end();
  }

  #sendBytes(request: IncomingMessage, response: ServerResponse, path: string, content: Buffer): void {
    if (request.method === "HEAD") {
      response.writeHead(200, { "content-length": content.length }).end();
      return;
    }
    const fault = this.faults.get(path)?.shift();
    if (fault?.kind === "status") {
      sendStatus(response, fault);
      return;
    }
    const asked = Number(request.headers.range?.match(/^bytes=(\d+)-$/)?.[1] ?? 0);
    const from = fault?.kind === "ignoreRange" ? 0 : asked;
    if (from > content.length) {
      response.writeHead(416).end();
      return;
    }
    let body = content.subarray(from);
    const first = fault?.kind === "wrongRange" ? from + 1 : from;
    const range = { "content-range": `bytes ${first}-${content.length - 1}/${content.length}` };
    if (fault?.kind === "corrupt") body = Buffer.from(body.map((byte) => byte ^ 1));
    if (fault?.kind === "tooLong") body = Buffer.concat([body, Buffer.from("more")]);
    // Without a length the end of the body is all that a client sees.
    const length = fault?.kind === "truncate" ? {} : { "content-length": body.length };
    response.writeHead(from > 0 ? 206 : 200, { ...length, ...(from > 0 && range) });
    if (fault?.kind === "truncate") response.end(body.subarray(0, fault.after));
    else if (fault?.kind === "drop") response.write(body.subarray(0, fault.after), () => response.destroy());
    else if (fault?.kind === "stall") response.write(body.subarray(0, 10));
    else response.end(body);
  }
}

function sendStatus(response: ServerResponse, { status, retryAfter }: Fault & { kind: "status" }): void {
  response.writeHead(status, retryAfter ? { "retry-after": retryAfter } : {}).end();
}

const addressOf = (server: Server) => `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
