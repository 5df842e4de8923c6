import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** What a contained program must not reach: a folder with the user's secret, and a server that counts its connections. */
export interface Attacked {
  outside: string;
  secret: string;
  port: number;
  /** How many connections have come since the last call. */
  connections(): number;
  close(): void;
}

export async function openAttacked(content: string): Promise<Attacked> {
  const outside = mkdtempSync(join(tmpdir(), "kiln-outside-"));
  const secret = join(outside, "secret.txt");
  writeFileSync(secret, content);
  let connections = 0;
  const server = createServer((socket) => {
    connections++;
    socket.destroy();
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    outside,
    secret,
    port: (server.address() as { port: number }).port,
    connections() {
      const come = connections;
      connections = 0;
      return come;
    },
    close() {
      server.close();
      rmSync(outside, { recursive: true });
    },
  };
}
