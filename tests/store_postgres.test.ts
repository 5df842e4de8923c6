import { type AddressInfo, createServer, connect as dial, type Socket } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, expect, test, vi } from "vitest";
import { Application } from "../serve/app/application.ts";
import { newId, type OpenStore, openStore, type StoreOptions } from "../serve/store/index.ts";
import { noPostgres, type Postgres, startPostgres } from "./support/databases.ts";
import { addConversation, addMessage, addUser } from "./support/store_rows.ts";

let postgres: Postgres | null = null;
let proxy: Awaited<ReturnType<typeof startProxy>>;
beforeAll(async () => {
  postgres = await startPostgres();
  if (postgres) proxy = await startProxy(postgres.port);
});
afterAll(async () => {
  await proxy?.stop();
  await postgres?.stop();
});

/** Passes bytes on to Postgres, and breaks a connection when it is told to. */
async function startProxy(port: number) {
  const sockets = new Set<Socket>();
  /** Breaks the connection over which these words go: before they are sent, or after they were answered. */
  let trap: { words: string; when: "before" | "after" } | null = null;
  const server = createServer((client) => {
    const server = dial(port, "127.0.0.1");
    let answers = true;
    const cut = () => {
      client.destroy();
      server.destroy();
    };
    for (const socket of [client, server]) {
      sockets.add(socket);
      socket.on("error", cut).on("close", cut);
    }
    client.on("data", (data) => {
      if (trap && data.includes(trap.words)) {
        const { when } = trap;
        trap = null;
        if (when === "before") return cut();
        answers = false;
      }
      server.write(data);
    });
    server.on("data", (data) => {
      if (answers) client.write(data);
      else cut(); // done, but the client does not hear of it
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    port: (server.address() as AddressInfo).port,
    breakAt(words: string, when: "before" | "after") {
      trap = { words, when };
    },
    stop() {
      for (const socket of sockets) socket.destroy();
      return new Promise((resolve) => server.close(resolve));
    },
  };
}

const withStore = (
  name: string,
  body: (store: OpenStore, people: { user: string; conversation: string }, told: string[]) => Promise<void>,
  options: StoreOptions = {},
) =>
  test(name, { timeout: 60_000 }, async (context) => {
    if (!postgres) return context.skip(noPostgres!);
    const told: string[] = [];
    const schema = `lost_${Math.random().toString(36).slice(2, 8)}`;
    const store = await openStore(postgres.url(schema, proxy.port), {
      ...options,
      onConnection: (state) => told.push(state),
    });
    try {
      const user = await addUser(store);
      await body(store, { user, conversation: await addConversation(store, user) }, told);
    } finally {
      await store.close();
    }
  });

const contents = async (store: OpenStore) =>
  (await store.all<{ content: string }>("SELECT content FROM message ORDER BY id")).map(
    ({ content }) => content,
  );

for (const words of ["BEGIN", "INSERT INTO message", "COMMIT"]) {
  for (const when of ["before", "after"] as const) {
    withStore(
      `a connection lost ${when} ${words} loses and doubles no message`,
      async (store, { user, conversation }, told) => {
        proxy.breakAt(words, when);
        await addMessage(store, user, conversation, "one statement");
        proxy.breakAt(words, when);
        let runs = 0;
        const value = await store.transaction(async (tx) => {
          runs++;
          await addMessage(tx, user, conversation, "first of two", { id: newId() });
          await addMessage(tx, user, conversation, "second of two", { id: newId() });
          return `run ${runs}`;
        });
        expect(await contents(store)).toEqual(["one statement", "first of two", "second of two"]);
        // After a commit that arrived, the body is not run again.
        expect([runs, value]).toEqual(
          words === "COMMIT" && when === "after"
            ? [1, "run 1"]
            : words === "BEGIN"
              ? [1, "run 1"]
              : [2, "run 2"],
        );
        expect(told).toEqual(["lost", "back", "lost", "back"]);
      },
    );
  }
}

withStore("a read over a lost connection is asked again", async (store, _people, told) => {
  proxy.breakAt("count(*) AS n FROM conversation", "after");
  expect(await store.all("SELECT count(*) AS n FROM conversation")).toEqual([{ n: 1 }]);
  expect(told).toEqual(["lost", "back"]);
});

test("an application says so, once each, though nobody asks for anything meanwhile", async (context) => {
  if (!postgres) return context.skip(noPostgres!);
  const store = await openStore(postgres.url("told", proxy.port));
  const source = { models: () => [] } as never;
  const application = await Application.open({ source, store, mode: "single" });
  const heard: unknown[] = [];
  application.hub.listen("local", (event) => heard.push(event));
  await postgres!.restart();
  await vi.waitFor(() => expect(heard).toHaveLength(2), { timeout: 30_000 });
  expect(heard).toEqual(["lost", "back"].map((state) => ({ type: "store.update", state })));
  await application.close();
}, 60_000);

withStore("a server that starts anew is waited for", async (store, { user, conversation }, told) => {
  await addMessage(store, user, conversation, "before");
  const restarted = postgres!.restart();
  await sleep(50);
  await Promise.all([1, 2, 3].map((i) => addMessage(store, user, conversation, `meanwhile ${i}`)));
  await restarted;
  expect((await contents(store)).sort()).toEqual(["before", "meanwhile 1", "meanwhile 2", "meanwhile 3"]);
  expect(told.at(-1)).toBe("back");
});

test("a server that is not there, or refuses, is told in one line without the password", async (context) => {
  if (!postgres) return context.skip(noPostgres!);
  const open = (url: string) => openStore(url, { patienceMs: 200 });
  const away = await open("postgres://kiln:secret@127.0.0.1:9/postgres").catch((error) => error);
  expect(away).toMatchObject({ code: "store_lost" });
  expect(away.message).toMatch(/^postgres:\/\/127\.0\.0\.1:9\/postgres cannot be reached: .*ECONNREFUSED/);
  const refused = await open(postgres.url("x").replace("kiln-test", "wrong")).catch((error) => error);
  expect(refused).toMatchObject({ code: "store_refused" });
  expect(refused.message).toMatch(/password authentication failed .*; check DATABASE_URL$/);
  await expect(open(postgres.url("x").replace("/postgres", "/nothing"))).rejects.toThrow(
    /"nothing" does not exist; check DATABASE_URL/,
  );
  await expect(open(postgres.url("Bad-Name"))).rejects.toThrow("write ?schema=kiln");
  await expect(open("mysql://me:secret@host/x")).rejects.toThrow(
    /^mysql:\/\/…@host\/x is no address of a store/,
  );
});
