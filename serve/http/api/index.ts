import type { Route } from "../route.ts";
import { administration } from "./administration.ts";
import { chat } from "./chat.ts";
import { classify } from "./classify.ts";
import { completions } from "./completions.ts";
import { embeddings } from "./embeddings.ts";
import { health, ready } from "./health.ts";
import { metrics } from "./metrics.ts";
import { model, models } from "./models.ts";
import { ollama } from "./ollama/index.ts";
import { responses } from "./responses.ts";
import { scoring } from "./score.ts";
import { load, openapi, version } from "./server_info.ts";
import { detokenize, tokenize } from "./tokenize.ts";

/** Every route of the server: paths, methods, keys and schemas are read from here alone. */
export const routes: readonly Route[] = [
  ...[health, ready, version, load, metrics, openapi],
  ...[models, model, completions, chat, responses],
  ...[embeddings, classify, ...scoring],
  ...[tokenize, detokenize],
  ...ollama,
  ...administration,
];
