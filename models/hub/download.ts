import { createHash, type Hash } from "node:crypto";
import { type FileHandle, open } from "node:fs/promises";
import { KilnError } from "../../core/errors.ts";
import { writeError } from "../../core/platform/files.ts";
import { assertFound, fileAddress, type HubClient } from "./client.ts";
import type { HubFile, ModelName } from "./names.ts";
import { Patience, TemporaryFault } from "./patience.ts";

/** Which file of which commit is fetched to where. */
export interface Download {
  name: ModelName;
  commit: string;
  file: HubFile;
  /** Keeps what has come; it may hold the beginning from an earlier attempt. */
  partial: string;
  /** Told of each change of how many bytes there are. */
  onChange?: (bytes: number) => void;
}

/** Attempts in a row that bring nothing new. */
const tries = 6;

/**
 * Completes `partial` to the file's bytes. A dropped connection is taken up where it ended, by `Range`; bytes with another
 * hash than the file's are fetched once more from the start.
 * Errors: what the hub refuses; a hash that is wrong twice or a body that is too long (`hub_damaged`; nothing is kept
 * then); a disk that cannot be written; a stop (exit code 130) or a TemporaryFault after the last try (both keep what has come).
 */
export async function download(client: HubClient, task: Download): Promise<void> {
  const { partial, file } = task;
  const handle = await open(partial, "a+").catch((error) => {
    throw writeError(partial, error);
  });
  try {
    const target = new Target(handle, task);
    await target.readBack();
    for (const isLast of [false, true]) {
      await complete(client, task, target);
      if (target.isWhole()) break;
      await target.restart();
      if (!isLast) continue;
      throw new KilnError(
        `${file.path} came with another checksum than the hub tells, twice: nothing of it is kept; try again later or with another HF_ENDPOINT`,
        { code: "hub_damaged" },
      );
    }
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** Fetches from where the target ends until it has all bytes. */
async function complete(client: HubClient, { name, commit, file }: Download, target: Target): Promise<void> {
  const patience = new Patience(tries, client.clock, client.signal);
  let most = target.length;
  while (target.length < file.size) {
    try {
      await receive(client, fileAddress(name, commit, file.path), { name, file }, target);
    } catch (error) {
      // A server without Range starts anew each time: only bytes that were not there before are progress.
      if (target.length > most) patience.progressed();
      most = Math.max(most, target.length);
      await patience.afterFailure(error);
    }
  }
}

/** One request for what is missing. Throws where it ends early. */
async function receive(
  client: HubClient,
  address: string,
  { name, file }: Pick<Download, "name" | "file">,
  target: Target,
): Promise<void> {
  const from = target.length;
  const answer = await client.request(address, from > 0 ? { range: `bytes=${from}-` } : {});
  const range = answer.headers.get("content-range") ?? "";
  const isNext = answer.status === 206 && range.startsWith(`bytes ${from}-`);
  try {
    if (from > 0 && !isNext && (answer.status === 206 || answer.status === 416)) {
      await target.restart();
      throw new TemporaryFault("the hub sent another part of the file than it was asked for");
    }
    assertFound(answer, name, file.path);
    if (from > 0 && !isNext) await target.restart();
    for await (const chunk of answer.chunks()) await target.append(chunk);
  } finally {
    await answer.close();
  }
  if (target.length < file.size) throw new TemporaryFault("the connection ended early");
}

/** A file that grows at its end, and the hash of what it holds. */
class Target {
  length = 0;
  readonly #handle: FileHandle;
  readonly #task: Download;
  #hash: Hash;

  constructor(handle: FileHandle, task: Download) {
    this.#handle = handle;
    this.#task = task;
    this.#hash = startHash(task.file);
  }

  /** Takes up what an earlier process left. */
  async readBack(): Promise<void> {
    const { size } = await this.#handle.stat();
    if (size > this.#task.file.size) return this.restart();
    const chunk = new Uint8Array(Math.min(size, 2 ** 20));
    while (this.length < size) {
      const { bytesRead } = await this.#handle.read(chunk, 0, chunk.length, this.length);
      if (bytesRead === 0) return this.restart();
      this.#count(chunk.subarray(0, bytesRead));
    }
  }

  async append(chunk: Uint8Array): Promise<void> {
    const { file, partial } = this.#task;
    if (this.length + chunk.length > file.size) {
      await this.restart();
      const message = `the hub sends more than the ${file.size} bytes that it tells of ${file.path}: nothing of it is kept; try again later or with another HF_ENDPOINT`;
      throw new KilnError(message, { code: "hub_damaged" });
    }
    await this.#handle.appendFile(chunk).catch((error) => {
      throw writeError(partial, error);
    });
    this.#count(chunk);
  }

  async restart(): Promise<void> {
    await this.#handle.truncate(0);
    this.#hash = startHash(this.#task.file);
    this.length = 0;
    this.#task.onChange?.(0);
  }

  /** Whether all bytes are there and are the right ones. */
  isWhole(): boolean {
    return this.length === this.#task.file.size && this.#hash.copy().digest("hex") === this.#task.file.hash;
  }

  #count(chunk: Uint8Array): void {
    this.#hash.update(chunk);
    this.length += chunk.length;
    this.#task.onChange?.(this.length);
  }
}

/** Large files are named by the SHA-256 of their bytes, others as git names them: SHA-1 over a header and the bytes. */
function startHash({ hash, size }: HubFile): Hash {
  return hash.length === 64 ? createHash("sha256") : createHash("sha1").update(`blob ${size}\0`);
}
