import type { FastifyInstance, FastifyRequest } from "fastify";
import type { ApplicationHost } from "../app/index.ts";
import { modelList } from "../app/model_list.ts";
import type { ModelPool } from "../models.ts";

export const SOCKET_PATH = "/api/chat/ws";
const FRAME_BYTES = 2 ** 20;
const PING_MS = 20_000;
const ANNOUNCE_MS = 50;

/** Adds `GET /api/chat/ws`, the protocol `kiln.chat.v1` (serve/app/protocol.ts); `admit` refuses before the upgrade. */
export function addChatSocket(
  app: FastifyInstance,
  { models, application }: { readonly models: ModelPool; readonly application: ApplicationHost },
  admit: (request: FastifyRequest) => void,
): void {
  models.onChange = announcer(models, application);
  void app.register(async (scope) => {
    const { default: websocket } = await import("@fastify/websocket");
    const handleProtocols = (offered: Set<string>) => (offered.has("kiln.chat.v1") ? "kiln.chat.v1" : false);
    await scope.register(websocket, { options: { maxPayload: FRAME_BYTES, handleProtocols } });
    const onRequest = async (request: FastifyRequest) => admit(request);
    scope.get(SOCKET_PATH, { websocket: true, onRequest }, async (socket, request) => {
      // What comes before the connection is ready waits.
      const early: string[] = [];
      let receive = (text: string) => void early.push(text);
      socket.on("message", (data: Buffer, isBinary: boolean) => {
        if (isBinary) socket.close(1003, "frames are JSON text");
        else receive(data.toString("utf8"));
      });
      socket.on("error", () => socket.terminate());
      const alive = keepAlive(socket);
      try {
        const opened = await application.open();
        const { authorization, cookie } = request.headers;
        const principal = await opened.auth.principal({ authorization, cookie });
        const { ChatSocket } = await import("../app/chat/chat_socket.ts");
        if (socket.readyState !== socket.OPEN) return;
        if (opened.hub.connections(principal.id) >= models.limits.socketsPerUser)
          return socket.close(1013, "too many connections: close other tabs of this page");
        const chat = new ChatSocket(opened, models, principal, {
          send: (text) => socket.send(text),
          close: (code, reason) => socket.close(code, reason),
          cut: (code, reason) => {
            socket.close(code, reason);
            // What it has sent besides is not read any more, nor its own goodbye.
            socket.pause();
            setTimeout(() => socket.terminate(), 1000).unref();
          },
          waiting: () => socket.bufferedAmount,
        });
        socket.on("close", () => chat.close());
        receive = (text) => void chat.receive(text);
        for (const text of early) receive(text);
      } catch (error) {
        const unknown = (error as { status?: number }).status === 401;
        if (!unknown) models.onError(error);
        socket.close(unknown ? 4401 : 1011, unknown ? "log in" : "the server failed");
      } finally {
        socket.on("close", alive);
      }
    });
  });
}

/** Tells the pages that are open what is served now, once where much changes at a time. */
function announcer(models: ModelPool, application: ApplicationHost): () => void {
  let waits = false;
  const announce = async () => {
    waits = false;
    const { hub, source } = (await application.opened)!;
    await hub.broadcastEach(async (userId) => ({
      type: "model.update",
      ...(await modelList(models, source, userId)),
    }));
  };
  return () => {
    if (waits || application.opened === null) return;
    waits = true;
    setTimeout(() => void announce().catch(models.onError), ANNOUNCE_MS).unref();
  };
}

/** Lets go of a client that answers no ping. @returns a function that ends it. */
function keepAlive(socket: {
  ping(): void;
  terminate(): void;
  on(event: "pong", heard: () => void): unknown;
}) {
  let misses = 0;
  socket.on("pong", () => {
    misses = 0;
  });
  const timer = setInterval(() => {
    if (misses++ >= 2) socket.terminate();
    else socket.ping();
  }, PING_MS);
  return () => clearInterval(timer);
}
