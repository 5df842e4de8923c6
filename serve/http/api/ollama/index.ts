import type { Route } from "../../route.ts";
import { chat } from "./chat.ts";
import { embed, embeddings } from "./embed.ts";
import { generate } from "./generate.ts";
import { ps, show, tags, version } from "./models.ts";

/** Ollama's routes. Their errors are `{error: text}`: see `errors.ts`. */
export const ollama: readonly Route[] = [generate, chat, embed, embeddings, tags, show, ps, version];
