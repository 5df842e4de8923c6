import type { Store } from "../../store/index.ts";
import type { TokensBody, TokensResult } from "../protocol.ts";
import type { AnswerSource, Turn } from "./answers.ts";
import { buildContext, type History } from "./context.ts";
import { readBranch } from "./history.ts";

const NOTHING: History = { system: null, turns: [], unread: { messages: 0, chars: 0 } };

/** What a message would come to with what the model would be sent before it. @throws AppError 404. */
export async function countTokens(
  store: Store,
  source: AnswerSource,
  userId: string,
  { model, text, conversation_id: conversationId, parent_id: end, system }: TokensBody,
): Promise<TokensResult> {
  await source.own?.(userId, model);
  const context_length = source.contextLength(model);
  const branch =
    conversationId == null
      ? NOTHING
      : await readBranch(store, userId, {
          ...{ conversationId, contextLength: context_length },
          ...(end === undefined ? {} : { end }),
        });
  const own: Turn[] = text === "" ? [] : [{ role: "user", content: text }];
  const history = { ...branch, system: system ?? branch.system, turns: [...branch.turns, ...own] };
  if (history.turns.length === 0) return { tokens: 0, context_length };
  const sent = await buildContext(source, model, history).then(
    ({ turns }) => turns,
    (error) => {
      if ((error as { code?: string }).code !== "context_length_exceeded") throw error;
      return [...(history.system ? [{ role: "system" as const, content: history.system }] : []), ...own];
    },
  );
  const tokens = await source.count(model, sent);
  // Far too many to count: more than fit is all that matters.
  return {
    tokens: Number.isFinite(tokens) ? tokens : Math.max(text.length, context_length + 1),
    context_length,
  };
}
