import { afterAll, expect, it } from "vitest";
import { idle, until } from "./serve_fake.ts";
import { chatServer, eventsOf } from "./support/chat_server.ts";

const server = await chatServer("queue", "single", { maxSeqs: 1 });
afterAll(() => server.server.close(0));

it("an answer that waits for others says how many are before it, and each time that there are fewer", async () => {
  server.runner.before = () => new Promise((resolve) => setTimeout(resolve, 60));
  const params = { temperature: 0, max_tokens: 12 };
  const asked = [];
  for (let waiting = 0; waiting < 3; waiting++) {
    asked.push(
      server.ask("POST", "/api/chat", { user_id: "local", query: "once upon", stream: true, params }),
    );
    await until(() => idle(server.engine).running === 1 && idle(server.engine).waiting === waiting);
  }
  const streams = (await Promise.all(asked)).map(({ text }) => eventsOf(text));
  const places = streams.map((events) =>
    events.flatMap(({ type, notice }) => (type === "chat.notice" ? [notice] : [])),
  );
  // One is answered at once, and of the two that wait one waits for the other too.
  expect(places.map((told) => told.length).sort()).toEqual([0, 1, 2]);
  for (const told of places)
    expect(told).toEqual([2, 1].slice(2 - told.length).map((position) => ({ kind: "queued", position })));
  for (const events of streams) {
    const types = events.map(({ type }) => type);
    expect(types.lastIndexOf("chat.notice")).toBeLessThan(types.indexOf("chat.delta"));
    expect(types.at(-1)).toBe("chat.done");
  }
});
