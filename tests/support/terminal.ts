import { PassThrough } from "node:stream";
import { expect } from "vitest";
import type { ChatSession } from "../../serve/app/repl/chat_session.ts";
import { ChatRepl, type ReplOptions } from "../../serve/app/repl/repl.ts";

/** A terminal with a chat in it: what is typed, what is seen. */
export function terminal(chat: ChatSession, options: Partial<ReplOptions> = {}) {
  const input = Object.assign(new PassThrough(), { isTTY: true });
  const output = Object.assign(new PassThrough(), { isTTY: true, columns: 80 });
  let seen = "";
  output.on("data", (text) => {
    seen += text;
  });
  const say = (line: string) => void output.write(`${line}\n`);
  const open = () => Promise.reject(new Error("there is no other model"));
  const done = new ChatRepl(chat, { open, say, input, output, ...options }).run();
  return { type: (text: string) => input.write(text), seen: () => seen, done };
}

/** Waits until a terminal shows a text. */
export const shown = async (seen: () => string, text: string, timeout = 5000) =>
  expect.poll(seen, { timeout, interval: 5 }).toContain(text);
