import type { Store } from "../store/index.ts";
import {
  areaUnderCurve,
  fitQuality,
  HEURISTIC,
  type QualityModel,
  qualityOf,
  type Rated,
} from "./ensemble/quality.ts";

/** Ratings that are looked at, the last ones. */
const MOST = 5000;

/** How well the quality that is told of answers agrees with people's thumbs. */
interface QualityReport {
  /** `heuristic`: fixed weights, until there are 200 ratings. */
  readonly kind: QualityModel["kind"];
  readonly ratings: number;
  /** The probability that an answer which was liked has the higher quality of two, on ratings that nothing was fitted on; null without both kinds. */
  readonly auc: number | null;
  /** The same of the fixed weights. */
  readonly heuristic_auc: number | null;
}

/** The answers that were rated, with what was asked, oldest first. */
async function ratedAnswers(store: Store): Promise<Rated[]> {
  const rows = await store.all<{
    question: string;
    text: string;
    mean_logprob: number | null;
    finish_reason: string | null;
    rating: number;
  }>(
    "SELECT q.content AS question, a.content AS text, a.mean_logprob, a.finish_reason, f.rating FROM feedback f JOIN message a ON a.id = f.message_id JOIN message q ON q.id = a.parent_id ORDER BY f.created_at DESC LIMIT ?",
    [MOST],
  );
  return rows.reverse().map(({ question, text, mean_logprob, finish_reason, rating }) => ({
    ...{
      question,
      text,
      meanLogprob: mean_logprob,
      endedProperly: finish_reason === "stop",
      good: rating > 0,
    },
  }));
}

export async function qualityReport(store: Store): Promise<QualityReport> {
  const rated = await ratedAnswers(store);
  const { kind } = fitQuality(rated);
  // What is reported of a fit is measured on the other half.
  const check = kind === "fitted" ? rated.filter((_, i) => i % 2 === 1) : rated;
  const half =
    kind === "fitted"
      ? fitQuality(
          rated.filter((_, i) => i % 2 === 0),
          1,
        )
      : HEURISTIC;
  const auc = (model: QualityModel) =>
    areaUnderCurve(check.map((one) => ({ score: qualityOf(one, model), good: one.good })));
  return { kind, ratings: rated.length, auc: auc(half), heuristic_auc: auc(HEURISTIC) };
}
