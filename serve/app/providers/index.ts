import type { ModelPool } from "../../models.ts";
import { localAnswers } from "../chat/local_answers.ts";
import { Answering } from "./answering.ts";
import { keyOf, type ProvidersConfig } from "./config.ts";
import { localTools } from "./local_tools.ts";
import { Upstream } from "./upstream.ts";

/** Answers of the models of a server and of what the settings add to them. @throws KilnError for names and keys that cannot be. */
export function answeringOf(pool: ModelPool, config: ProvidersConfig): Answering {
  const upstreams = new Map(
    Object.entries(config.providers).map(([name, settings]) => [
      name,
      new Upstream(name, settings, keyOf(name, settings)),
    ]),
  );
  return new Answering({ local: localAnswers(pool), tools: localTools(pool), config, upstreams });
}
