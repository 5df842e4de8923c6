import { setImmediate as nextTurn } from "node:timers/promises";
import { z } from "zod";
import { chatPrompt } from "../../text/chat.ts";
import { badRequest } from "../errors.ts";
import { type Call, modelNamed, onlyModel, route, servedModel } from "../route.ts";
import { conversationFields, conversationOf, toolChoiceOf } from "./messages.ts";
import { flag } from "./text_fields.ts";

const tokenizeSchema = z.object({
  ...conversationFields,
  model: z.string().min(1).nullish(),
  prompt: z.string().nullish(),
  messages: conversationFields.messages.nullish(),
  add_special_tokens: flag,
  return_token_strs: flag,
  add_generation_prompt: flag,
  continue_final_message: flag,
  chat_template_kwargs: z.record(z.string(), z.unknown()).nullish(),
});

type TokenizeBody = z.infer<typeof tokenizeSchema>;

/**
 * POST /tokenize: the ids that a model reads a text or a conversation as, an encoder a text. The model may be left out where
 * there is one.
 */
export const tokenize = route({
  method: "POST",
  path: "/tokenize",
  summary: "Token ids of a text or a conversation",
  example: { prompt: "once upon a time" },
  schema: () => tokenizeSchema,
  advice: { prompt: "give prompt or messages" },
  handle: async (call: Call<TokenizeBody>) => {
    const { body, service } = call;
    const name = body.model ?? onlyModel(service);
    const { count, ids, frontend } = await (body.messages == null ? ofText : ofConversation)(call, name);
    const { tokenizer, engine } = frontend;
    const token_strs = body.return_token_strs ? ids?.map((id) => tokenizer.idToToken(id)) : null;
    return { count, max_model_len: engine.runner.maxModelLen, tokens: ids, token_strs };
  },
});

async function ofText({ body, service }: Call<TokenizeBody>, name: string) {
  const { frontend } = servedModel(service, name);
  if (body.prompt == null) throw noneOrBoth();
  const add_special_tokens = body.add_special_tokens ?? true;
  return { frontend, ...(await frontend.encode(body.prompt, { add_special_tokens })) };
}

async function ofConversation({ body, service }: Call<TokenizeBody>, name: string) {
  const frontend = modelNamed(service, name);
  const { prompt, messages } = body;
  if (prompt != null || messages == null) throw noneOrBoth();
  const given = { ...body, messages };
  const conversation = conversationOf(given);
  const asked = { ...given, conversation, tool_choice: toolChoiceOf(given) };
  const { pieces } = chatPrompt(frontend.tokenizer, asked);
  return { frontend, ...(await frontend.encode({ pieces }, { prompt_field: "messages" })) };
}

const noneOrBoth = () => badRequest("prompt", "give either prompt or messages");

/** POST /detokenize: the text of ids, special tokens by their names. */
export const detokenize = route({
  method: "POST",
  path: "/detokenize",
  summary: "The text of token ids",
  example: { tokens: [1, 40, 41] },
  schema: () => z.object({ model: z.string().min(1).nullish(), tokens: z.array(z.int().min(0)) }),
  handle: async ({ body, service }) => {
    const { tokenizer } = servedModel(service, body.model ?? onlyModel(service)).frontend;
    const unknown = body.tokens.find((id) => tokenizer.idToToken(id) === null);
    if (unknown !== undefined) throw badRequest("tokens", `tokens: the tokenizer has no token ${unknown}`);
    const decoder = tokenizer.streamDecoder({ skipSpecialTokens: false });
    let prompt = "";
    for (const [i, id] of body.tokens.entries()) {
      // Others have their turn within a long list.
      if (i % 4096 === 4095) await nextTurn();
      prompt += decoder.push(id);
    }
    return { prompt: prompt + decoder.flush() };
  },
});
