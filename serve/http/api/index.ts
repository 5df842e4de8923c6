import type { Route } from "../route.ts";
import { chat } from "./chat.ts";
import { classify } from "./classify.ts";
import { completions } from "./completions.ts";
import { embeddings } from "./embeddings.ts";
import { health } from "./health.ts";
import { metrics } from "./metrics.ts";
import { model, models } from "./models.ts";
import { scoring } from "./score.ts";

/** Every route of the server: paths, methods, keys and schemas are read from here alone. */
export const routes: readonly Route[] = [
  health,
  metrics,
  models,
  model,
  completions,
  chat,
  embeddings,
  classify,
  ...scoring,
];
