import { connect, type Socket } from "node:net";
import { IDLE, idle, type TestServer, until } from "../serve_fake.ts";

/** Ways in which a client goes: the usual end, a reset, and an end of sending alone. */
const ways: readonly ((socket: Socket) => void)[] = [
  (socket) => socket.destroy(),
  (socket) => socket.resetAndDestroy(),
  (socket) => socket.end(),
];

const sockets = () => process.getActiveResourcesInfo().filter((name) => name === "TCPSocketWrap").length;

/**
 * Clients that come and leave, one at a time, after each number of steps from 0 to 14: in the queue (behind one that
 * holds the only place), between the chunks of the prompt, in the answer; streaming or not. Each time all must be free again.
 */
export async function leaveAgainAndAgain(server: TestServer, cycles: number): Promise<void> {
  const { engine, runner } = server;
  const before = sockets();
  for (let i = 0; i < cycles; i++) {
    const leave = ways[i % ways.length];
    const isQueued = i % 5 === 4;
    const holder = isQueued ? await ask(server, i, true) : null;
    if (isQueued) await until(() => engine.stats().running === 1);
    const client = await ask(server, i, i % 2 === 0);
    if (isQueued) await until(() => engine.stats().waiting === 1);
    const from = runner.steps;
    await until(() => runner.steps - from >= i % 15);
    leave(client);
    if (isQueued) {
      await until(() => engine.stats().waiting === 0);
      holder!.destroy();
    }
    await until(() => JSON.stringify(idle(engine)) === JSON.stringify(IDLE));
    client.destroy();
  }
  // Connections that were kept before may have ended meanwhile.
  await until(() => sockets() <= before);
}

/** Sends a request for a long answer. */
function ask({ url }: TestServer, i: number, stream: boolean): Promise<Socket> {
  const prompt = Array.from({ length: 60 }, (_, at) => 40 + ((i + at) % 90));
  const body = JSON.stringify({ model: "tiny/fake", prompt, max_tokens: 400, ignore_eos: true, stream });
  const { hostname, port } = new URL(url);
  const head = `POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n`;
  return new Promise((resolve, reject) => {
    const socket = connect({ host: hostname, port: Number(port), allowHalfOpen: true }, () => {
      socket.write(head + body, () => resolve(socket));
    });
    socket.on("error", reject);
    socket.resume();
  });
}
