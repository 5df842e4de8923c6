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

/** Whether a text has turns of both the user and the assistant. */
export function hasTurns(text: string): boolean {
  const roles = [...text.matchAll(turn)].map(([, label]) => labels[label.toLowerCase()]);
  return roles.includes("user") && roles.includes("assistant");
}

/**
 * The messages of a text in which each turn starts a new line with `User:` or `Assistant:` (or `Human:`, `AI:`, `Bot:`,
 * `System:`). Text before the first turn becomes the system message. White space around each turn is removed, but for the indentation of
 * one that begins on a line of its own: code is indented.
 */
export function parseTranscript(text: string): ChatMessage[] {
  const starts = [...text.matchAll(turn)];
  const preamble = text.slice(0, starts[0]?.index ?? text.length).trim();
  const messages = starts.map((start, i): ChatMessage => {
    const content = text.slice(start.index + start[0].length, starts[i + 1]?.index ?? text.length);
    return {
      role: labels[start[1].toLowerCase()],
      content: content.replace(/^(?:[^\S\n]*\n)+/, "").trimEnd(),
    };
  });
  return preamble === "" ? messages : [{ role: "system", content: preamble }, ...messages];
}

/**
 * Writes a conversation as such a text.
 * @throws ConversationError if reading the text back would not give the same conversation: it has tools, or content that
 * contains such lines or is surrounded by white space.
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
    "this conversation would not be the same when read back from text with lines User: and Assistant:; write it as openai",
  );
}
