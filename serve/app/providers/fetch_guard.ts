import { lookup as systemLookup } from "node:dns";
import { Agent as HttpAgent, request as httpRequest, type IncomingMessage } from "node:http";
import { Agent as HttpsAgent, request as httpsRequest } from "node:https";
import { BlockList, isIP, type LookupFunction, type Socket } from "node:net";
import type { Clock } from "./clock.ts";
import { UpstreamError } from "./upstream_error.ts";

/** Addresses that are no public host's: private, local, link-local with the clouds' metadata, reserved; and tunnels to those. */
const blocked = new BlockList();
for (const range of [
  ...["0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"],
  ...["192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15"],
  ...["198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"],
  ...["::/96", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "2001::/32", "2001:db8::/32", "2002::/16"],
  ...["fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8"],
]) {
  const [network, prefix] = range.split("/") as [string, string];
  blocked.addSubnet(network, Number(prefix), network.includes(":") ? "ipv6" : "ipv4");
}

/** Whether an address is one that only this machine or its network reaches. An IPv4 address in IPv6 counts as what it is. */
export function isPrivate(address: string): boolean {
  const family = isIP(address.replace(/%.*$/, ""));
  if (family === 0) return true;
  return blocked.check(address.replace(/%.*$/, ""), family === 6 ? "ipv6" : "ipv4");
}

const REDIRECTS = 3;

export interface GuardOptions {
  /** What messages call it. */
  readonly name: string;
  readonly allowPrivate: boolean;
  readonly clock: Clock;
  readonly connectMs: number;
  readonly lookup?: LookupFunction;
}

export interface GuardedRequest {
  readonly method: "GET" | "POST";
  readonly headers: Readonly<Record<string, string>>;
  readonly body?: string;
  readonly signal: AbortSignal;
}

/**
 * Requests to addresses that an administrator wrote, and to no other place. The address is checked that the connection is made to:
 * a literal one before it, in whatever form it was written, and a name's when it has been looked up, so that a name cannot answer
 * twice differently. Redirects stay with the host.
 */
export class FetchGuard {
  readonly #options: GuardOptions;
  readonly #agents: { http: HttpAgent; https: HttpsAgent };

  constructor(options: GuardOptions) {
    this.#options = options;
    const lookup = checking(options);
    // Own connections: nobody else's, whose addresses were not checked, are used again.
    this.#agents = {
      http: new HttpAgent({ keepAlive: true, lookup }),
      https: new HttpsAgent({ keepAlive: true, lookup }),
    };
  }

  /** @throws UpstreamError for an address that is refused, and where nobody answers; the signal's reason. */
  async request(url: URL, asked: GuardedRequest): Promise<IncomingMessage> {
    let target = url;
    for (let redirects = 0; ; redirects++) {
      const response = await this.#once(target, asked);
      const { statusCode = 0, headers } = response;
      if (statusCode < 300 || statusCode > 399) return response;
      response.destroy();
      const next =
        headers.location && URL.canParse(headers.location, target) && new URL(headers.location, target);
      const stays = next && next.origin === url.origin && (asked.method === "GET" || statusCode >= 307);
      if (!stays || redirects === REDIRECTS)
        throw new UpstreamError({
          code: "upstream_forbidden",
          message: `${this.#options.name} redirects to another place, which is not followed: base_url must be where it answers`,
        });
      target = next;
    }
  }

  #once(url: URL, { method, headers, body, signal }: GuardedRequest): Promise<IncomingMessage> {
    const { name, allowPrivate, clock, connectMs } = this.#options;
    const secure = url.protocol === "https:";
    // The parser of URLs makes ordinary addresses of decimal, octal and short ones; `lookup` is not asked for them.
    const host = url.hostname.replace(/^\[|\]$/g, "");
    if (!allowPrivate && isIP(host) !== 0 && isPrivate(host)) return Promise.reject(forbidden(name));
    return new Promise((resolve, reject) => {
      signal.throwIfAborted();
      const agent = secure ? this.#agents.https : this.#agents.http;
      const request = (secure ? httpsRequest : httpRequest)(url, { method, headers, agent, signal });
      const slow = () => request.destroy(unreachable(name, `no connection within ${connectMs / 1000} s`));
      const stop = clock.after(connectMs, slow);
      request.on("socket", (socket: Socket) => {
        if (request.reusedSocket || !socket.connecting) stop();
        else socket.once(secure ? "secureConnect" : "connect", stop);
      });
      request.on("error", (error: NodeJS.ErrnoException) => {
        stop();
        if (signal.aborted) reject(signal.reason);
        else reject(error instanceof UpstreamError ? error : unreachable(name, reasonOf(error), error));
      });
      request.on("response", resolve);
      request.end(body);
    });
  }

  close(): void {
    this.#agents.http.destroy();
    this.#agents.https.destroy();
  }
}

/** Looks names up, and refuses those that have a private address among theirs. */
function checking({
  name,
  allowPrivate,
  lookup = systemLookup as LookupFunction,
}: GuardOptions): LookupFunction {
  return (hostname, options, callback) =>
    lookup(hostname, { ...options, all: true }, (error, found) => {
      const addresses = (Array.isArray(found) ? found : []) as { address: string; family: number }[];
      if (error !== null) callback(error, "", 0);
      else if (addresses.length === 0) callback(new Error("the name has no address"), "", 0);
      else if (!allowPrivate && addresses.some(({ address }) => isPrivate(address)))
        callback(forbidden(name), "", 0);
      else if (options.all) callback(null, addresses);
      else callback(null, addresses[0]!.address, addresses[0]!.family);
    });
}

const forbidden = (name: string) =>
  new UpstreamError({
    code: "upstream_forbidden",
    message: `the address of ${name} is one of this machine or its network: set allow_private: true where that is meant`,
  });

export const unreachable = (name: string, reason: string, cause?: unknown) =>
  new UpstreamError({
    code: "upstream_unavailable",
    message: `${name} cannot be reached: ${reason}`,
    transient: true,
    cause,
  });

/** Of a connection's failure, without addresses. */
function reasonOf({ code }: NodeJS.ErrnoException): string {
  const known: Record<string, string> = {
    ECONNREFUSED: "nobody listens there",
    ECONNRESET: "the connection was closed",
    ENOTFOUND: "its name is not known",
    EAI_AGAIN: "its name cannot be looked up now",
  };
  return known[code ?? ""] ?? code ?? "the connection failed";
}
