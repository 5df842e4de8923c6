export { type BpeTrainerOptions, GPT2_PATTERN, trainBpe } from "./bpe_trainer.ts";
export { charTokenizer, UNKNOWN } from "./char_tokenizer.ts";
export { withChatTemplate } from "./chat/chat_tokenizer.ts";
export {
  type ChatMessage,
  type ChatRole,
  type ChatTool,
  type Conversation,
  ConversationError,
  chatRoles,
  checkConversation,
  type ToolCall,
} from "./chat/conversation.ts";
export {
  type ChatFormatName,
  chatFormatNames,
  detectChatFormat,
  type Row,
  readConversation,
  readConversations,
  writeConversation,
} from "./chat/formats.ts";
export {
  CHATML,
  ChatTemplate,
  type EncodedChat,
  PLAIN_TURNS,
  type RenderedChat,
  type RenderOptions,
  type TextSpan,
} from "./chat/templates.ts";
export { TokenizerError } from "./errors.ts";
export { tokenizerFromGguf } from "./from_gguf.ts";
export { StreamDecoder } from "./stream_decoder.ts";
export { tokenizerToGguf } from "./to_gguf.ts";
export { type EncodeOptions, type TextEncoding, Tokenizer, type TokenizerConfigs } from "./tokenizer.ts";
export type { TokenizerJson } from "./tokenizer_json.ts";
