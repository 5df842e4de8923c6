import { PassThrough } from "node:stream";
import { expect } from "vitest";
import type { ChatSession, Lens } from "../../serve/app/repl/chat_session.ts";
import { ChatRepl, type ReplOptions } from "../../serve/app/repl/repl.ts";

/** Of models that are scripts: their only expectation is what they say. */
export const lens: Lens = {
  alternatives: async (prompt, answer) => [
    {
      id: 0,
      text: answer,
      probability: 1,
      entropy: prompt.length,
      alternatives: [{ id: 0, text: answer, probability: 1 }],
    },
  ],
  everything: () => Promise.reject(new Error("a script has no gradients")),
};

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
