import { type ChatMessage, type ChatRole, type Conversation, ConversationError } from "./conversation.ts";

const labels: Record<string, ChatRole> = {
  system: "system",
  user: "user",
  human: "user",
  assistant: "assistant",
  ai: "assistant",
  bot: "assistant",
};
const turn = /^[ \t]*(System|User|Human|Assistant|AI|Bot):[ \t]*/gim;

/** Whether a text has a turn of both sides. */
export function hasTurns(text: string): boolean {
  const roles = [...text.matchAll(turn)].map(([, label]) => labels[label.toLowerCase()]);
  return roles.includes("user") && roles.includes("assistant");
}

/**
 * The messages of a text in which each turn begins with `User:` or `Assistant:` (or `Human:`, `AI:`, `Bot:`, `System:`) at
 * the start of a line. Text before the first turn is the system's. White space around a turn is dropped.
 */
export function parseTranscript(text: string): ChatMessage[] {
  const starts = [...text.matchAll(turn)];
  const preamble = text.slice(0, starts[0]?.index ?? text.length).trim();
  const messages = starts.map((start, i): ChatMessage => {
    const content = text.slice(start.index + start[0].length, starts[i + 1]?.index ?? text.length);
    return { role: labels[start[1].toLowerCase()], content: content.trim() };
  });
  return preamble === "" ? messages : [{ role: "system", content: preamble }, ...messages];
}

/**
 * A conversation as such a text.
 * @throws ConversationError where reading it again would give another one: tools, and content that itself has such lines
 * or white space around it.
 */
export function transcript({ messages, tools }: Conversation): string {
  const names = { system: "System", user: "User", assistant: "Assistant", tool: "" };
  const text = messages.map(({ role, content }) => `${names[role]}: ${content}`).join("\n");
  const isPlain = messages.every((message) => message.role !== "tool" && Object.keys(message).length === 2);
  const again = parseTranscript(text);
  const isSame =
    again.length === messages.length && again.every(({ content }, i) => content === messages[i].content);
  if (!tools && isPlain && isSame) return text;
  throw new ConversationError(
    "this conversation cannot be written as text with lines User: and Assistant: and be read again; write it as openai",
  );
}
