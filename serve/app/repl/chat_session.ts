import { definedOnly } from "../../../core/defined_only.ts";
import { KilnError } from "../../../core/errors.ts";
import type { ChatMessage, ChatTemplate, Conversation } from "../../../tokenizer/index.ts";
import type { GenerateOptions, TextGenerator } from "../../text/text_generator.ts";
import type { Choice, Explanation } from "../explain/explain.ts";

/** A model to talk to. */
export interface ChatModel {
  /** What the person called it. */
  name: string;
  writer: Pick<TextGenerator, "stream">;
  template: Pick<ChatTemplate, "encode">;
  /** Tokens of the longest conversation that the model reads, its answer included. */
  context: number;
  /** Explains an answer to what it followed: the alternatives of its tokens, or all, as a page. */
  lens: Lens;
  /** Frees the model; nothing may be running. */
  close(): void;
}

export interface Lens {
  alternatives(prompt: readonly number[], answer: string): Promise<Choice[]>;
  everything(prompt: readonly number[], answer: string): Promise<Explanation>;
}

export interface ChatOptions extends Pick<GenerateOptions, "temperature" | "top_k" | "top_p" | "min_p"> {
  /** Tokens of the longest answer. */
  max_tokens: number;
  /** Answer number i of the session is drawn with seed + i; by default each draws its own. */
  seed?: number | bigint | undefined;
}

export interface Answer {
  content: string;
  /** What ended it: the model, `max_tokens` or the end of the context, or the person. */
  finish_reason: "stop" | "length" | "interrupted";
  /** The oldest turns that no longer fit into the context, which the model did not see. */
  leftOut: number;
}

/** What the model reads next. */
interface Prompt extends Pick<Answer, "leftOut"> {
  ids: readonly number[];
  turns: number;
}

/** A conversation with a model. What fails leaves it as it was. */
export class ChatSession {
  model: ChatModel;
  readonly options: ChatOptions;
  /** What the model is told before the first turn; "" for nothing. */
  system = "";
  /** Everything said since, whether or not it still fits into the context. */
  messages: ChatMessage[] = [];
  /** The names of the models that wrote the answers of this session. */
  readonly #writers = new WeakMap<ChatMessage, string>();
  /** Tools and metadata of a conversation that was loaded. */
  #others: Omit<Conversation, "messages"> = {};
  #answers = 0;

  constructor(model: ChatModel, options: ChatOptions) {
    this.model = model;
    this.options = options;
  }

  get conversation(): Conversation {
    return this.#withSystem(this.messages);
  }

  set conversation({ messages, ...others }: Conversation) {
    const hasSystem = messages[0]?.role === "system";
    this.system = hasSystem ? messages[0].content : "";
    this.messages = messages.slice(hasSystem ? 1 : 0);
    this.#others = others;
  }

  /**
   * Says something and streams the answer. An answer that is cut off, by the person or for its length, stays with weight 0, so
   * that `kiln train sft` does not learn to end there; one cut off before its first word takes the message back.
   */
  ask(content: string, hear: (text: string) => void, signal: AbortSignal): Promise<Answer> {
    return this.#answer([...this.messages, { role: "user", content }], hear, signal);
  }

  /** Answers the last message once more. */
  retry(hear: (text: string) => void, signal: AbortSignal): Promise<Answer> {
    return this.#answer(this.messages.slice(0, this.#lastMessage() + 1), hear, signal);
  }

  /** Takes back the last message and its answer, and returns it. */
  undo(): string {
    const last = this.#lastMessage();
    const { content } = this.messages[last];
    this.messages = this.messages.slice(0, last);
    this.#unrate();
    return content;
  }

  /**
   * Notes what a person thinks of the last answer, and what it should have been, as data of conversations has them. With
   * whatever is said or taken back next, the note is gone: it would be of another answer.
   */
  rate(rating: -1 | 1, correction?: string): void {
    if (this.messages.at(-1)?.role !== "assistant")
      throw new KilnError("there is no answer to rate; write a message first");
    this.#unrate();
    const { metadata } = this.#others;
    this.#others = { ...this.#others, metadata: { ...metadata, rating, ...definedOnly({ correction }) } };
  }

  #unrate(): void {
    const { metadata, ...others } = this.#others;
    const { rating: _, correction: __, ...rest } = metadata ?? {};
    this.#others = { ...others, ...(Object.keys(rest).length > 0 && { metadata: rest }) };
  }

  /**
   * The last answer, what the model of now reads before it, and the name of the model that wrote it; undefined of one that was
   * loaded. @throws KilnError where there is none
   */
  async lastAnswer(): Promise<{ prompt: readonly number[]; answer: string; by: string | undefined }> {
    const answer = this.messages.at(-1);
    if (answer?.role !== "assistant" || answer.content === "")
      throw new KilnError("there is no answer to explain; write a message first");
    const { ids: prompt } = await this.prompt(this.messages.slice(0, -1));
    return { prompt, answer: answer.content, by: this.#writers.get(answer) };
  }

  /** Forgets all but the system message. */
  clear(): void {
    this.messages = [];
    this.#others = {};
  }

  /** Tokens that the oldest turns have to leave free for the answer. */
  get answerRoom(): number {
    return Math.min(this.options.max_tokens, Math.floor(this.model.context / 4));
  }

  /** The conversation as tokens, without the oldest turns where it does not fit. */
  async prompt(messages = this.messages): Promise<Prompt> {
    if (messages.length === 0) return { ids: [], turns: 0, leftOut: 0 };
    const turns = turnsOf(messages);
    const without = async (leftOut: number) => {
      const rest = this.#withSystem(turns.slice(leftOut).flat());
      return (await this.model.template.encode(rest, { addGenerationPrompt: true })).ids;
    };
    const room = this.model.context - this.answerRoom;
    let [ids, least, most] = [await without(0), 0, turns.length - 1];
    if (ids.length <= room) return { ids, turns: turns.length, leftOut: 0 };
    while (least < most) {
      const middle = Math.floor((least + most) / 2);
      if ((await without(middle)).length <= room) most = middle;
      else least = middle + 1;
    }
    ids = await without(most);
    return { ids, turns: turns.length, leftOut: most };
  }

  async #answer(messages: ChatMessage[], hear: (text: string) => void, signal: AbortSignal): Promise<Answer> {
    const { writer, context, name } = this.model;
    const { ids, leftOut } = await this.prompt(messages);
    if (ids.length >= context)
      throw new KilnError(
        `the message takes ${ids.length} tokens with what surrounds it, and the model reads ${context}: shorten it; the conversation is as before`,
      );
    const { seed, ...others } = this.options;
    const own = seed === undefined ? seed : BigInt(seed) + BigInt(this.#answers++);
    const answer: Answer = { content: "", finish_reason: "interrupted", leftOut };
    try {
      const pieces = writer.stream(ids, definedOnly({ ...others, seed: own }));
      const stopped = new Promise<null>((resolve) => {
        signal.addEventListener("abort", () => resolve(null), { once: true });
      });
      while (!signal.aborted) {
        const next = await Promise.race([pieces.next(), stopped]);
        if (next?.done) answer.finish_reason = next.value;
        if (!next || next.done) break;
        answer.content += next.value;
        hear(next.value);
      }
      if (signal.aborted) pieces.return("length").catch(() => {}); // the person has left it
    } finally {
      const { content, finish_reason } = answer;
      const isWhole = finish_reason === "stop";
      if (isWhole || content !== "") {
        this.#unrate();
        const written: ChatMessage = { role: "assistant", content, ...(!isWhole && { weight: 0 }) };
        this.#writers.set(written, name);
        this.messages = [...messages, written];
      }
    }
    return answer;
  }

  #withSystem(messages: ChatMessage[]): Conversation {
    const system: ChatMessage[] = this.system === "" ? [] : [{ role: "system", content: this.system }];
    return { ...this.#others, messages: [...system, ...messages] };
  }

  #lastMessage(): number {
    const last = this.messages.findLastIndex(({ role }) => role === "user");
    if (last >= 0) return last;
    throw new KilnError("nothing was said yet; write a message first");
  }
}

/** Messages in turns: each begins with the user's. */
function turnsOf(messages: readonly ChatMessage[]): ChatMessage[][] {
  const turns: ChatMessage[][] = [];
  for (const message of messages) {
    if (message.role === "user" || turns.length === 0) turns.push([]);
    turns.at(-1)!.push(message);
  }
  return turns;
}
