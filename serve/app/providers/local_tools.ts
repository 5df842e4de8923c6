import type { ModelPool } from "../../models.ts";
import { scored } from "../chat/alternatives.ts";
import type { Turn } from "../chat/answers.ts";

/** What models of this server do for answers of others. */
export interface LocalTools {
  /** About how many tokens a text has. */
  measure(text: string): Promise<number>;
  /** Mean log probability of an answer by a model that writes; null where it has no tokens. */
  score(model: string, turns: readonly Turn[], answer: string, client: string): Promise<number | null>;
  /** The likeliest label of a text by a classifier; null where there is none of this name. */
  classify(model: string, text: string): Promise<string | null>;
}

/** Of English, roughly. */
const CHARS_PER_TOKEN = 4;

export function localTools(pool: ModelPool): LocalTools {
  return {
    async measure(text) {
      for (const [, model] of pool)
        if (model.kind === "text") {
          const counted = await model.frontend.encode(text, { add_special_tokens: false }).catch(() => null);
          if (counted !== null) return counted.count;
        }
      return Math.ceil(text.length / CHARS_PER_TOKEN);
    },
    async score(name, turns, answer, client) {
      const model = pool.get(name);
      if (model?.kind !== "text") return null;
      const tokens = await scored(model.frontend, turns, answer, client, 0);
      const sum = tokens.reduce(
        (total, { probability }) => total + Math.log(Math.max(probability, 1e-12)),
        0,
      );
      return tokens.length === 0 ? null : sum / tokens.length;
    },
    async classify(name, text) {
      const model = pool.get(name);
      if (model?.kind !== "encoder") return null;
      const { task } = model.frontend;
      if (task.name !== "classify") return null;
      const [logits] = await (await model.frontend.start({ inputs: [text], client: "route", truncate: -1 }))
        .done;
      const scores = task.scores(logits!);
      return task.labels[scores.indexOf(Math.max(...scores))]!;
    },
  };
}
