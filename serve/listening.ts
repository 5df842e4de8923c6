import { createServer } from "node:net";
import { KilnError } from "../core/errors.ts";

/** Fails early, before a model is loaded, if the address cannot be had. @throws KilnError as `Server.listen`. */
export async function assertCanListen({ host, port }: { host: string; port: number }): Promise<void> {
  const probe = createServer();
  await new Promise<void>((resolve, reject) => {
    probe.once("error", (error) => reject(listenError(error, host, port)));
    probe.listen({ host, port }, () => probe.close(() => resolve()));
  });
}

/** What a server says that cannot have its address; other errors as they are. */
export function listenError(error: NodeJS.ErrnoException, host: string, port: number): unknown {
  const where = `port ${port} on ${host}`;
  const advice: Record<string, string> = {
    EADDRINUSE: `${where} is in use: stop the other program or choose another port with --port`,
    EACCES: `${where} needs more rights: choose a port above 1023 with --port`,
    EADDRNOTAVAIL: `${host} is not an address of this machine: choose another with --host`,
    ENOTFOUND: `${host} is not a known host: choose another with --host`,
    ERR_SOCKET_BAD_PORT: `${port} is not a port: choose one from 0 to 65535 with --port`,
  };
  const message = advice[error.code ?? ""];
  return message === undefined ? error : new KilnError(message, { code: "cannot_listen", cause: error });
}
