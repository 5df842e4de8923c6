/** Who may ask. */
export interface Access {
  /** When there are any, every route but /health wants one as `Authorization: Bearer KEY` or `X-Api-Key: KEY`. */
  readonly apiKey?: string | readonly string[];
  /** Keys whose requests may also set `priority`; nobody else may. */
  readonly priorityKeys?: readonly string[];
  /** The key that loads and unloads models, and is good for all other routes too. Without one nobody may do that. */
  readonly adminKey?: string;
  /** Names by which clients may reach a server on a loopback address, besides `localhost` and IP addresses; `*`: any. */
  readonly allowedHosts?: readonly string[];
  /** Origins of web pages that may read answers, besides those of this machine; `*`: any. */
  readonly allowedOrigins?: readonly string[];
}
