export { ChatTemplate } from "kiln/tokenizer";
