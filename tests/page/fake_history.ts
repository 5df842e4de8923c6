import { randomUUID } from "node:crypto";
import type { Conversation, Failure, Message, ModelInfo, ServerEvent } from "../../serve/app/protocol.ts";

/** How the next answer comes about. */
export interface Reply {
  pieces?: string[];
  /** Between two pieces, in milliseconds. */
  gapMs?: number;
  /** Stay unfinished after the last piece. */
  hold?: boolean;
  error?: Failure;
  finish?: "stop" | "length";
  notice?: Extract<ServerEvent, { type: "chat.notice" }>["notice"];
  trimmed?: { messages: number; tokens: number };
  provider?: string;
  model?: string;
  /** Refuse the request itself. */
  refuse?: Failure;
}

export const demo: ModelInfo = {
  name: "demo",
  kind: "base",
  state: "ready",
  progress: null,
  error: null,
  log: null,
  chat: true,
  provider: "local",
  parameters: 3_200_000,
  context_length: 1024,
  tokens_per_second: 118,
  version: 1,
  aliases: { prod: 1 },
  examples: ["Once upon a time", "Tom had a red ball", "The little dog wanted to"],
};
export const other: ModelInfo = {
  ...demo,
  name: "stories",
  parameters: 15e6,
  version: null,
  aliases: {},
  examples: [],
};

export const tokensOf = (text: string) => Math.ceil(text.length / 4);

/** Conversations and their messages, in memory. */
export class FakeHistory {
  conversations = new Map<string, Conversation>();
  messages = new Map<string, Message>();
  /** Each thing that happens has a time of its own. */
  protected time = Date.now();

  addConversation(values: Partial<Conversation> = {}): Conversation {
    const at = this.time++;
    const conversation: Conversation = {
      ...{
        id: randomUUID(),
        notice_id: null,
        title: "A conversation",
        model: null,
        system: null,
        leaf_id: null,
        pinned: false,
      },
      ...{ consent: false, running: false, created_at: at, updated_at: at, ...values },
    };
    this.conversations.set(conversation.id, conversation);
    return conversation;
  }

  /** Adds a message after the last one of the branch that is shown. */
  addMessage(conversation: Conversation, values: Partial<Message>): Message {
    const message: Message = {
      ...{
        id: randomUUID(),
        conversation_id: conversation.id,
        parent_id: conversation.leaf_id,
        role: "user",
      },
      ...{ content: "", status: "complete", siblings: [], model: null, model_version: null, provider: null },
      ...{
        experiment_arm: null,
        params: null,
        usage: null,
        cost_microusd: null,
        ttft_ms: null,
        total_ms: null,
      },
      ...{ tokens_per_second: null, mean_logprob: null, finish_reason: null, error: null, trimmed: null },
      ...{ citations: [], feedback: null, seq: 0, created_at: this.time++, ...values },
    } as Message;
    if (message.role === "assistant" && !message.model)
      Object.assign(message, { model: "demo", provider: "local" });
    this.messages.set(message.id, message);
    conversation.leaf_id = message.id;
    return message;
  }

  /** A question and its whole answer. */
  addTurn(
    conversation: Conversation,
    question: string,
    answer: string,
    values: Partial<Message> = {},
  ): Message {
    this.addMessage(conversation, { content: question });
    return this.addMessage(conversation, {
      ...{ role: "assistant", content: answer, finish_reason: "stop", model_version: "1" },
      ...{
        usage: { prompt_tokens: 40, completion_tokens: tokensOf(answer), cached_tokens: 0, estimated: false },
      },
      ...{ cost_microusd: 0, ttft_ms: 41, total_ms: 600, tokens_per_second: 118, ...values },
    });
  }

  branch(leaf: string | null): Message[] {
    const branch: Message[] = [];
    for (let at = leaf; at !== null; at = this.messages.get(at)!.parent_id)
      branch.unshift(this.messages.get(at)!);
    return branch.map((message) => ({ ...message, siblings: this.siblings(message) }));
  }

  siblings({ conversation_id, parent_id }: Message): string[] {
    const all = [...this.messages.values()];
    return all
      .filter((one) => one.conversation_id === conversation_id && one.parent_id === parent_id)
      .map(({ id }) => id);
  }

  leafBelow(id: string): string {
    const child = [...this.messages.values()].findLast(({ parent_id }) => parent_id === id);
    return child ? this.leafBelow(child.id) : id;
  }
}
