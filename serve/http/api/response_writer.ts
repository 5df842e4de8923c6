import type { Tokenizer } from "../../../tokenizer/index.ts";
import type { MessageDelta } from "../../text/chat.ts";
import type { CallPiece } from "../../text/tool_calls.ts";
import { tokenLogprobs } from "../token_logprobs.ts";

interface OutputText {
  readonly type: "output_text";
  text: string;
  readonly annotations: readonly never[];
  readonly logprobs: ReturnType<typeof tokenLogprobs>;
}

interface MessageItem {
  readonly type: "message";
  readonly id: string;
  readonly role: "assistant";
  status: ItemStatus;
  readonly content: OutputText[];
}

interface CallItem {
  readonly type: "function_call";
  readonly id: string;
  readonly call_id: string;
  readonly name: string;
  arguments: string;
  status: ItemStatus;
}

type ItemStatus = "in_progress" | "completed" | "incomplete";
type OutputItem = MessageItem | CallItem;

/** An event of a stream, without its number. */
export interface ResponseEvent {
  readonly type: string;
  readonly [field: string]: unknown;
}

/** Makes the output items of a response from the pieces of an answer, and the events that tell of them. */
export class ResponseWriter {
  readonly items: OutputItem[] = [];
  readonly #tokenizer: Tokenizer;
  readonly #topLogprobs: number;

  constructor(tokenizer: Tokenizer, topLogprobs: number) {
    this.#tokenizer = tokenizer;
    this.#topLogprobs = topLogprobs;
  }

  /** The events of a piece; each must be sent, or its item copied, before the next is taken. */
  *write(delta: MessageDelta): Iterable<ResponseEvent> {
    const isSilent = delta.calls.length === 0 && this.items.length === 0 && delta.finishReason !== null;
    const isScored = this.#open?.type === "message" && (delta.logprobs?.length ?? 0) > 0;
    if (delta.content !== "" || isSilent || isScored) yield* this.#writeText(delta);
    for (const call of delta.calls) yield* this.#writeCall(call);
    if (delta.finishReason === null) return;
    yield* this.#endItem(delta.finishReason === "length" ? "incomplete" : "completed");
  }

  *#writeText({ content, logprobs }: MessageDelta): Iterable<ResponseEvent> {
    if (this.#open?.type !== "message") {
      yield* this.#endItem("completed");
      const item: MessageItem = {
        ...{ type: "message", id: `msg_${hex()}`, role: "assistant", status: "in_progress", content: [] },
      };
      yield* this.#begin(item);
      const part: OutputText = { type: "output_text", text: "", annotations: [], logprobs: [] };
      item.content.push(part);
      yield { type: "response.content_part.added", ...this.#place(item), part };
    }
    const item = this.#open as MessageItem;
    const [part] = item.content;
    const scores = tokenLogprobs(this.#tokenizer, logprobs ?? [], this.#topLogprobs);
    part.text += content;
    part.logprobs.push(...scores);
    if (content === "") return;
    yield { type: "response.output_text.delta", ...this.#place(item), delta: content, logprobs: scores };
  }

  *#writeCall({ id, name, arguments: args }: CallPiece): Iterable<ResponseEvent> {
    if (id !== undefined && name !== undefined) {
      yield* this.#endItem("completed");
      const status = "in_progress";
      const item: CallItem = {
        ...{ type: "function_call", id: `fc_${hex()}`, call_id: id, name, arguments: "", status },
      };
      yield* this.#begin(item);
    }
    if (args === "") return;
    const item = this.#open as CallItem;
    item.arguments += args;
    const { item_id, output_index } = this.#place(item);
    yield { type: "response.function_call_arguments.delta", item_id, output_index, delta: args };
  }

  *#begin(item: OutputItem): Iterable<ResponseEvent> {
    this.items.push(item);
    yield { type: "response.output_item.added", output_index: this.items.length - 1, item };
  }

  *#endItem(status: "completed" | "incomplete"): Iterable<ResponseEvent> {
    const item = this.#open;
    if (item === undefined) return;
    item.status = status;
    const { item_id, output_index, content_index } = this.#place(item);
    if (item.type === "message") {
      const [part] = item.content;
      const at = { item_id, output_index, content_index };
      yield { type: "response.output_text.done", ...at, text: part.text, logprobs: part.logprobs };
      yield { type: "response.content_part.done", ...at, part };
    } else {
      const { name, arguments: args } = item;
      yield { type: "response.function_call_arguments.done", item_id, output_index, name, arguments: args };
    }
    yield { type: "response.output_item.done", output_index, item };
  }

  /** The item being written. */
  get #open(): OutputItem | undefined {
    const last = this.items.at(-1);
    return last?.status === "in_progress" ? last : undefined;
  }

  #place(item: OutputItem) {
    return { item_id: item.id, output_index: this.items.indexOf(item), content_index: 0 };
  }
}

function hex(): string {
  return crypto.randomUUID().replaceAll("-", "");
}
