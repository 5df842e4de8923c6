import { createHash } from "node:crypto";
import { notAnAnswer } from "../app_error.ts";
import type { ChatError, Failure, Message } from "../protocol.ts";
import type { AnswerEvent } from "./generation.ts";

/** The SHA-256 by which a client checks its text. */
export const textSha256 = (text: string): string => createHash("sha256").update(text).digest("hex");

/** The events of an answer that has ended, made from its row: its text in one piece, then its end. @throws AppError 409. */
export function replayed(message: Message): AnswerEvent[] {
  const { id: message_id, conversation_id, content: text, seq, status, finish_reason, error } = message;
  if (message.role !== "assistant") throw notAnAnswer();
  const end = { message_id, conversation_id, seq };
  const failed = (failure: Failure): ChatError => ({
    type: "chat.error",
    request_id: null,
    ...end,
    ...failure,
  });
  const last: AnswerEvent =
    status === "complete" || status === "stopped"
      ? {
          ...{ type: "chat.done", ...end, finish_reason: finish_reason ?? "stop" },
          ...{ model: message.model ?? "", model_version: message.model_version },
          ...{
            provider: message.provider ?? (message.model === null ? "" : "local"),
            usage: message.usage ?? NO_USAGE,
          },
          ...{
            cost_microusd: message.cost_microusd,
            ttft_ms: message.ttft_ms,
            total_ms: message.total_ms ?? 0,
          },
          ...{ tokens_per_second: message.tokens_per_second, mean_logprob: message.mean_logprob },
          ...(message.unsupported && { unsupported: message.unsupported }),
          text_sha256: textSha256(text),
        }
      : failed(error ?? INTERRUPTED);
  const delta: AnswerEvent = { type: "chat.delta", message_id, seq: Math.max(seq - 1, 0), offset: 0, text };
  const { citations } = message;
  const sources: AnswerEvent[] =
    citations.length === 0
      ? []
      : [{ type: "chat.sources", message_id, seq: Math.max(seq - 1, 0), citations }];
  return [...sources, ...(text === "" ? [] : [delta]), last];
}

const NO_USAGE = { prompt_tokens: 0, completion_tokens: 0, cached_tokens: 0, estimated: false };
const INTERRUPTED: Failure = {
  code: "interrupted",
  message: "the server ended while it wrote this answer: continue it, or ask again",
  retryable: true,
};
