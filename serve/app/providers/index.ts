import type { ModelPool } from "../../models.ts";
import { localAnswers } from "../chat/local_answers.ts";
import { CombinedClassifiers } from "../ensemble/classifiers.ts";
import { Answering } from "./answering.ts";
import { keyOf, type ProvidersConfig } from "./config.ts";
import { localTools } from "./local_tools.ts";
import { Upstream } from "./upstream.ts";

/**
 * Adds the classifiers of the settings to the models of a server, beside those that they consist of.
 * @returns answers of its models and of what the settings add to them. @throws KilnError for names and keys that cannot be.
 */
export function install(pool: ModelPool, config: ProvidersConfig): Answering {
  for (const [name, settings] of Object.entries(config.classifiers))
    pool.addCombined(name, settings.members[0]!, new CombinedClassifiers(pool, name, settings));
  const upstreams = new Map(
    Object.entries(config.providers).map(([name, settings]) => [
      name,
      new Upstream(name, settings, keyOf(name, settings)),
    ]),
  );
  return new Answering({ local: localAnswers(pool), tools: localTools(pool), config, upstreams });
}
