/**
 * Every bound of the server, in one place. Each can be set with `createServer({ limits })`.
 * Times are in milliseconds.
 */
export const LIMITS = {
  /** Bytes of a request body. */
  bodyBytes: 4 * 1024 * 1024,
  /** Bytes of the body of a request that gives texts to an encoder. */
  textsBodyBytes: 16 * 1024 * 1024,
  /** Nesting of a JSON body. */
  jsonDepth: 64,
  /** Members of objects, objects and arrays in a JSON body, for each of which the parser allocates. */
  jsonMembers: 4096,
  /** Values in a JSON body, token ids above all. */
  jsonValues: 500_000,
  /** Bytes of all request headers together. */
  headerBytes: 16 * 1024,
  /** Request headers. */
  headerCount: 100,
  /** Time for the headers to arrive. */
  headerWaitMs: 10_000,
  /** Time for the whole request to arrive. */
  requestWaitMs: 30_000,
  /** Idle time of a kept connection. */
  keepAliveMs: 5_000,
  /** Open connections. */
  connections: 1024,
  /** Connections of one person's pages. */
  socketsPerUser: 128,
  /** Sequences waiting for their first step. A request for more is accepted if none waits. */
  queuedRequests: 256,
  /** Prompt tokens of all waiting sequences. */
  queuedTokens: 1_000_000,
  /** Texts that wait for an encoder, and may have `queuedTokens` too. A request for more is accepted if none waits. */
  queuedTexts: 8192,
  /** Time a sequence, or a request to an encoder, may wait for its first step. */
  queueWaitMs: 60_000,
  /** Texts of one request to an encoder. */
  inputs: 2048,
  /** Prompts in one request. */
  prompts: 256,
  /** Prompts times choices of one request. */
  sequences: 256,
  n: 128,
  bestOf: 20,
  stops: 16,
  stopChars: 256,
  stopTokenIds: 1024,
  cacheSaltChars: 256,
  logitBias: 1024,
  logprobs: 5,
  promptLogprobs: 20,
  allowedTokenIds: 65_536,
  badWords: 128,
  badWordChars: 256,
  topLogprobs: 20,
  /** A prompt string longer than this many characters per position of the context is refused before tokenising. */
  charsPerToken: 128,
  /** Bytes that may wait for a slow client without limit of time. */
  streamBacklogBytes: 1024 * 1024,
  /** Time that more may wait before the stream is cut. */
  streamStallMs: 10_000,
  /** Time for a client to take the rest of an answer that is complete, beside what that takes at `answerReadRate`. */
  answerReadMs: 30_000,
  /** Bytes a second. */
  answerReadRate: 16 * 1024,
  /** Bytes at which a stream is cut at once: more than a step of the most choices writes. */
  streamMostBytes: 64 * 1024 * 1024,
  /** Silence after which a stream sends a comment, so that proxies keep it open. */
  pingMs: 15_000,
  /** Time that running requests get to finish at shutdown. */
  drainMs: 30_000,
  /** Time one step of the engine may take before it counts as hung. */
  stepMs: 30_000,
  /** The longest pause before another process of engines is started while they end young. */
  restartPauseMs: 4_000,
};

export type Limits = typeof LIMITS;
