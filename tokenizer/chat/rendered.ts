import { type ChatMessage, type ChatRole, type Conversation, ConversationError } from "./conversation.ts";

/** A conversation that is written out as one text, in a layout that can be read back. */
export interface RenderedLayout {
  /** Whether a text has this layout. */
  fits(text: string): boolean;
  read(text: string): ChatMessage[];
  /** Throws ConversationError where the text would not read back as the same conversation. */
  write(conversation: Conversation): string;
}

interface Turn {
  role: ChatRole;
  content: string;
}

/** A layout whose `write` checks that `read` gives the same back. */
function layout(
  name: string,
  fits: (text: string) => boolean,
  read: (text: string) => Turn[],
  render: (turns: readonly Turn[]) => string,
): RenderedLayout {
  return {
    fits,
    read,
    write({ messages, tools }) {
      const text = render(messages);
      const again = tools || messages.some((message) => Object.keys(message).length > 2) ? [] : read(text);
      const isSame =
        fits(text) &&
        again.length === messages.length &&
        again.every(({ role, content }, i) => role === messages[i].role && content === messages[i].content);
      if (isSame) return text;
      throw new ConversationError(
        `this conversation would not be the same when read back from ${name} text; write it as openai`,
      );
    },
  };
}

const chatmlTurn = /<\|im_start\|>(system|user|assistant|tool)\n([\s\S]*?)<\|im_end\|>\n?/g;

/** ChatML's own marks around each turn. */
export const chatml = layout(
  "ChatML",
  (text) => /^\s*<\|im_start\|>\w+\n/.test(text),
  (text) => [...text.matchAll(chatmlTurn)].map(([, role, content]) => ({ role: role as ChatRole, content })),
  (turns) => turns.map(({ role, content }) => `<|im_start|>${role}\n${content}<|im_end|>\n`).join(""),
);

const headings = { system: "System", user: "Instruction", assistant: "Response", tool: "" };
const heading = /(?:^|\n\n)### (System|Instruction|Response):\n/g;

/** Alpaca's headings over each turn. */
export const instruction = layout(
  "### Instruction:",
  (text) => /^### (?:System|Instruction):\n/.test(text) && text.includes("\n\n### Response:\n"),
  (text) => {
    const starts = [...text.matchAll(heading)];
    return starts.map((start, i) => ({
      role: (["system", "user", "assistant"] as const)[
        ["System", "Instruction", "Response"].indexOf(start[1])
      ],
      content: text.slice(start.index + start[0].length, starts[i + 1]?.index ?? text.length),
    }));
  },
  (turns) => turns.map(({ role, content }) => `### ${headings[role]}:\n${content}`).join("\n\n"),
);
