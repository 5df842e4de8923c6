import type { AddressInfo } from "node:net";
import type { FastifyInstance } from "fastify";
import { KilnError } from "../core/errors.ts";
import { say } from "../core/platform/command_line.ts";
import type { Administration } from "./administration.ts";
import type { ApplicationHost } from "./app/index.ts";
import type { EnginePort } from "./engine/port.ts";
import type { Access } from "./http/access.ts";
import { assertKeys } from "./http/gate.ts";
import { buildApp } from "./http/server.ts";
import { listenError } from "./listening.ts";
import { ModelPool, type PoolOptions, type TextModelOptions } from "./models.ts";
import { templateProblem } from "./text/chat.ts";

interface CommonOptions extends Access {
  /** Refuse unknown request fields instead of ignoring them. */
  readonly strict?: boolean;
  /** What the names of metrics at /metrics begin with, before a colon (default `kiln`; `vllm` fits its dashboards). */
  readonly metricsPrefix?: string;
  /** What the holder of `adminKey` may do. */
  readonly administration?: Administration;
  /** Keeps conversations, where the server does. */
  readonly application?: ApplicationHost;
}

/** One model that writes text. */
interface OneModel extends PoolOptions, Omit<TextModelOptions, "name"> {
  /** The name that clients give as `model`. */
  readonly modelName: string;
}

/** A server has one model, or those of a pool. */
export type ServerOptions = CommonOptions & (OneModel | { readonly models: ModelPool });

// No type of Fastify here or in `Access`: its declarations want @types/node, which an installation does not bring.
export interface Server {
  readonly models: ModelPool;
  /** That of the first model that writes text. */
  readonly engine: EnginePort;
  /**
   * Starts to listen; returns the base URL. Port 0 takes a free one.
   * @throws KilnError when the address cannot be had.
   */
  listen(address?: { host?: string; port?: number }): Promise<string>;
  /** Refuses new requests, lets running ones finish for `drainMs`, cuts the rest off with an error, closes. */
  close(drainMs?: number): Promise<void>;
}

/** An OpenAI-compatible server. @throws KilnError for an API key that no header can carry. */
export function createServer(options: ServerOptions): Server {
  assertKeys(options);
  const models = "models" in options ? options.models : poolOfOne(options);
  const { strict = false, metricsPrefix = "kiln" } = options;
  models.watch((model) => {
    const problem = model.kind === "text" ? templateProblem(model.frontend.tokenizer) : null;
    if (problem !== null) say(`warning: ${model.name} cannot chat, only complete texts: ${problem}`);
  });
  const app = buildApp({ ...options, models, strict, metricsPrefix });
  app.ready(() => {}); // Plugins are read while models load; whoever listens hears of a failure.
  return {
    models,
    get engine() {
      for (const [, model] of models) if (model.kind === "text") return model.frontend.engine;
      throw new KilnError("this server has no model that writes text");
    },
    listen: ({ host = "127.0.0.1", port = 8000 } = {}) => listen(app, host, port),
    close: async (drainMs = models.limits.drainMs) => {
      await models.drain(drainMs);
      // A client that does not read its last bytes must not hold the server open.
      const cut = setTimeout(() => app.server.closeAllConnections(), 1000);
      await app.close();
      clearTimeout(cut);
      await options.application?.close();
    },
  };
}

function poolOfOne({ modelName: name, ...options }: OneModel): ModelPool {
  const models = new ModelPool(options);
  models.addText({ ...options, name });
  return models;
}

async function listen(app: FastifyInstance, host: string, port: number): Promise<string> {
  try {
    await app.listen({ host, port });
  } catch (error) {
    throw listenError(error as NodeJS.ErrnoException, host, port);
  }
  const { port: actual, family, address } = app.server.address() as AddressInfo;
  return `http://${family === "IPv6" ? `[${address}]` : address}:${actual}`;
}
