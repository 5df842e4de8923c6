import { homedir } from "node:os";
import { join } from "node:path";
import { usageError } from "../../core/errors.ts";
import { environmentVariable } from "../../core/platform/environment.ts";

/** A repository of the hub at a revision: a branch, a tag or a commit hash. */
export interface ModelName {
  repository: string;
  revision: string;
}

/** A file of a repository. `hash` is the SHA-256 of its bytes (64 hex digits), or their SHA-1 as a git blob (40). */
export interface HubFile {
  path: string;
  size: number;
  hash: string;
}

/** `name`, `org/name` or either with `@revision`; null for a text that cannot be one. */
export function parseModelName(text: string): ModelName | null {
  const [repository, ...rest] = text.split("@");
  const revision = rest.length === 0 ? "main" : rest.join("@");
  const isRepository = /^([a-z\d][\w.-]{0,95}\/)?[a-z\d][\w.-]{0,95}$/i.test(repository);
  if (!isRepository || /--|\.\./.test(repository) || !isSafePath(revision)) return null;
  return { repository, revision };
}

export const isCommit = (revision: string) => /^[\da-f]{40}$/.test(revision);

/** A path below a folder on every system: a name from the network must never lead anywhere else. */
export function isSafePath(path: string): boolean {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is refused
  if (path.length > 1024 || /[\\:*?"<>|\0-\x1f\x7f]/.test(path)) return false;
  return path.split("/").every((part) => !["", ".", ".."].includes(part) && !/[. ]$/.test(part));
}

/** Where the hub is, who asks, and where files are kept. */
export interface HubSettings {
  /** Without a slash at the end. */
  endpoint: string;
  token: string | null;
  cacheDir: string;
  offline: boolean;
}

/**
 * The settings of the environment, by the names that huggingface_hub gave them: `HF_ENDPOINT`, `HF_TOKEN`,
 * `HF_HUB_OFFLINE`, and `HF_HUB_CACHE`, `HF_HOME` or `XDG_CACHE_HOME` for the cache, which the two share.
 * Throws a KilnError for an endpoint that is no address, or one to which a token would be sent in the clear.
 */
export function hubSettings(): HubSettings {
  const endpoint = (environmentVariable("HF_ENDPOINT") || "https://huggingface.co").replace(/\/+$/, "");
  const token = environmentVariable("HF_TOKEN")?.trim() || null;
  const url = URL.canParse(endpoint) ? new URL(endpoint) : null;
  if (!url || !/^https?:$/.test(url.protocol) || url.username || url.search) {
    throw usageError(`HF_ENDPOINT=${endpoint} is no web address: give one such as https://hub.example`);
  }
  const isLocal = /^(localhost|127(\.\d+){3}|\[::1\])$/.test(url.hostname);
  if (token && url.protocol === "http:" && !isLocal) {
    throw usageError(
      `HF_TOKEN would be sent to ${url.host} unencrypted: use https in HF_ENDPOINT, or unset HF_TOKEN`,
    );
  }
  if (token && !/^[\x21-\x7e]+$/.test(token)) {
    throw usageError("HF_TOKEN holds a character that no token has: copy it again");
  }
  const cache = environmentVariable("XDG_CACHE_HOME") || join(homedir(), ".cache");
  const home = environmentVariable("HF_HOME") || join(cache, "huggingface");
  return {
    endpoint,
    token,
    cacheDir: environmentVariable("HF_HUB_CACHE") || join(home, "hub"),
    offline: /^(1|on|yes|true)$/i.test(environmentVariable("HF_HUB_OFFLINE") ?? ""),
  };
}
