import { KilnError } from "../../core/errors.ts";
import { type HubFile, type HubSettings, isCommit, isSafePath, type ModelName } from "./names.ts";
import {
  type Clock,
  Patience,
  retryAfterOf,
  systemClock,
  TemporaryFault,
  throwIfStopped,
} from "./patience.ts";

/** An answer whose headers have come. */
export interface Answer {
  status: number;
  /** Of the last answer; a header of a redirect on the way counts where the last one lacks it. */
  headers: Headers;
  /** The body as it comes; empty where the status says that it is no success. */
  chunks(): AsyncGenerator<Uint8Array>;
  /** Ends the connection. To be called where the body is not read to its end. */
  close(): Promise<void>;
}

/** The files of a repository at a commit. Without `size` and `hash` where the server does not tell them. */
export interface Listing {
  commit: string;
  files: { path: string; size?: number; hash?: string }[];
}

export interface ClientOptions {
  signal?: AbortSignal | undefined;
  clock?: Clock | undefined;
  /** Milliseconds without a byte after which a connection counts as dropped. */
  stall?: number | undefined;
}

const redirects = [301, 302, 303, 307, 308];
const longestList = 64 * 2 ** 20;

/** Requests to a model hub that speaks Hugging Face's protocol. */
export class HubClient {
  readonly signal: AbortSignal | undefined;
  readonly clock: Clock;
  readonly #settings: HubSettings;
  readonly #stall: number;

  constructor(settings: HubSettings, options: ClientOptions = {}) {
    this.#settings = settings;
    this.signal = options.signal;
    this.clock = options.clock ?? systemClock;
    this.#stall = options.stall ?? 30_000;
  }

  /**
   * Which commit a revision is, and its files, by `GET /api/models/NAME/revision/REVISION`.
   * Errors: a repository or revision that is not there or not open to this token; an answer that is none, or that names a
   * file outside the model's folder. A TemporaryFault where the hub cannot be reached.
   */
  async list(name: ModelName): Promise<Listing> {
    const path = `/api/models/${name.repository}/revision/${encodeURIComponent(name.revision)}?blobs=true`;
    const text = await this.#retried(3, async () => {
      const answer = await this.request(path);
      assertFound(answer, name);
      let body = "";
      const decoder = new TextDecoder();
      for await (const chunk of answer.chunks()) {
        body += decoder.decode(chunk, { stream: true });
        if (body.length > longestList)
          throw new KilnError(`the list of files of ${name.repository} has no end: check HF_ENDPOINT`);
      }
      return body;
    });
    return parseListing(text, name);
  }

  /** Size and hash of a file for which the list has none, from the headers of its address. */
  async describe(name: ModelName, commit: string, path: string): Promise<HubFile> {
    const { headers } = await this.#retried(3, async () => {
      const answer = await this.request(fileAddress(name, commit, path), {}, "HEAD");
      assertFound(answer, name, path);
      return answer;
    });
    const etag = headers.get("x-linked-etag") ?? headers.get("etag") ?? "";
    const hash = etag.replace(/^W\/|"/g, "");
    const size = Number(headers.get("x-linked-size") ?? headers.get("content-length") ?? Number.NaN);
    if (/^([\da-f]{64}|[\da-f]{40})$/.test(hash) && Number.isSafeInteger(size)) return { path, size, hash };
    throw new KilnError(
      `the hub at ${this.#settings.endpoint} tells no checksum of ${path}, so that kiln cannot tell a whole file from a damaged one: use another HF_ENDPOINT`,
    );
  }

  /**
   * One request, its redirects followed. The token goes to the hub's own host only.
   * Errors: a redirect that leads nowhere safe. Anything else that is thrown may be gone at the next attempt.
   */
  async request(path: string, headers: Record<string, string> = {}, method = "GET"): Promise<Answer> {
    throwIfStopped(this.signal);
    const { endpoint, token } = this.#settings;
    const watch = watched(this.#stall, this.signal);
    const passed: Headers[] = [];
    try {
      let url = new URL(endpoint + path);
      for (let hops = 0; hops < 6; hops++) {
        const isHub = url.origin === new URL(endpoint).origin;
        // Packed bytes could not be resumed.
        const all = { ...headers, "accept-encoding": "identity", "user-agent": "kiln" };
        const init = { method, redirect: "manual", signal: watch.signal } as const;
        const own = isHub && token ? { authorization: `Bearer ${token}` } : undefined;
        const response = await fetch(url, { ...init, headers: { ...all, ...own } });
        const location = response.headers.get("location");
        passed.push(response.headers);
        const next = redirects.includes(response.status) && location ? redirected(url, location) : null;
        // The address that large files are stored at need not answer HEAD; the hub's own headers have said it all.
        const isEnough = method === "HEAD" && next?.origin !== url.origin;
        if (!next || isEnough) {
          const answer = answerOf(next ? 200 : response.status, passed, response, watch);
          if (!response.ok || !response.body) await answer.close();
          return answer;
        }
        await response.body?.cancel();
        url = next;
      }
      throw new KilnError(`${endpoint} redirects without end: check HF_ENDPOINT`);
    } catch (error) {
      watch.stop();
      throw error;
    }
  }

  async #retried<T>(tries: number, attempt: () => Promise<T>): Promise<T> {
    const patience = new Patience(tries, this.clock, this.signal);
    for (;;) {
      try {
        return await attempt();
      } catch (error) {
        await patience.afterFailure(error);
      }
    }
  }
}

/** The path of a file's bytes at the hub. */
export const fileAddress = ({ repository }: ModelName, commit: string, path: string) =>
  `/${repository}/resolve/${commit}/${path.split("/").map(encodeURIComponent).join("/")}`;

/** A signal that is given when nothing came for `milliseconds`, or with `outer`. */
function watched(milliseconds: number, outer?: AbortSignal) {
  const controller = new AbortController();
  const reason = new TemporaryFault(`nothing came for ${milliseconds / 1000} s`);
  const timer = setTimeout(() => controller.abort(reason), milliseconds);
  const stop = () => controller.abort(outer!.reason);
  outer?.addEventListener("abort", stop);
  return {
    signal: controller.signal,
    came: () => timer.refresh(),
    stop: () => {
      clearTimeout(timer);
      outer?.removeEventListener("abort", stop);
    },
  };
}

function answerOf(
  status: number,
  passed: readonly Headers[],
  response: Response,
  watch: ReturnType<typeof watched>,
): Answer {
  const headers = new Headers();
  for (const each of passed) for (const [name, value] of each) headers.set(name, value);
  const close = async () => {
    watch.stop();
    // A body that is being read belongs to its reader, who ends it.
    await response.body?.cancel().catch(() => {});
  };
  async function* chunks() {
    try {
      for await (const chunk of response.body ?? []) {
        watch.came();
        yield chunk as Uint8Array;
      }
    } finally {
      watch.stop();
    }
  }
  return { status, headers, chunks, close };
}

function redirected(from: URL, location: string): URL {
  const to = URL.canParse(location, from.href) ? new URL(location, from.href) : null;
  const isSafe = to && (to.protocol === "https:" || (to.protocol === "http:" && from.protocol === "http:"));
  if (isSafe) return to;
  throw new KilnError(`${from.host} redirects to an address that is not safe to follow: check HF_ENDPOINT`);
}

/** Throws for an answer without what was asked for: a KilnError where asking again is of no use. */
export function assertFound({ status, headers }: Answer, name: ModelName, file?: string): void {
  if (status === 200 || status === 206) return;
  const { repository, revision } = name;
  const code = headers.get("x-error-code");
  const refuse = (message: string) => new KilnError(message, { code: "hub_refused" });
  if (code === "GatedRepo") {
    throw refuse(
      `${repository} is gated: accept its terms on its page, then set HF_TOKEN to a token of that account`,
    );
  }
  if (code === "RevisionNotFound")
    throw refuse(`${repository} has no revision ${revision}: check what is after the @`);
  if (code === "EntryNotFound" || (status === 404 && file))
    throw refuse(`${repository} has no file ${file} at this revision, though it lists it: try again later`);
  if (status === 401 || status === 404) {
    throw refuse(
      `the hub has no model ${repository}, or it is private: check the name; for a private one set HF_TOKEN to a token that may read it`,
    );
  }
  if (status === 403) throw refuse(`HF_TOKEN may not read ${repository}: use a token with read access to it`);
  const what = `the hub answered ${status}`;
  if (status === 408 || status === 429 || status >= 500)
    throw new TemporaryFault(what, retryAfterOf(headers));
  throw refuse(`${what} for ${file ?? repository}: check HF_ENDPOINT and the name`);
}

function parseListing(text: string, name: ModelName): Listing {
  const wrong = (what: string) =>
    new KilnError(`the hub's answer about ${name.repository} ${what}: check HF_ENDPOINT`, {
      code: "hub_answer",
    });
  let answer: Record<string, unknown>;
  try {
    answer = Object(JSON.parse(text));
  } catch (cause) {
    throw new KilnError(wrong("is not JSON").message, { code: "hub_answer", cause });
  }
  const { sha, siblings } = answer;
  if (typeof sha !== "string" || !isCommit(sha)) throw wrong("names no commit");
  if (isCommit(name.revision) && sha !== name.revision) throw wrong(`is about another commit (${sha})`);
  if (!Array.isArray(siblings)) throw wrong("lists no files");
  const files = siblings.map((entry: Record<string, unknown>) => {
    const path = entry?.rfilename;
    if (typeof path !== "string" || !isSafePath(path))
      throw wrong(`lists a file ${JSON.stringify(path)}, which is no path inside a model's folder`);
    const lfs = Object(entry.lfs) as Record<string, unknown>;
    const hash = entry.lfs ? lfs.sha256 : entry.blobId;
    const size = entry.lfs ? lfs.size : entry.size;
    const isKnown = /^([\da-f]{64}|[\da-f]{40})$/.test(String(hash)) && Number.isSafeInteger(size);
    return isKnown ? { path, size: size as number, hash: hash as string } : { path };
  });
  return { commit: sha, files };
}
