import { Calibration } from "../../../core/statistics/calibration.ts";

/** What one model of a chain made of a text: its confidence (null: not known), the quality of that, 0 to 1, and its price. */
export interface Outcome {
  readonly confidence: number | null;
  readonly quality: number;
  readonly costMicrousd: number;
}

/** A text, and what each model of the chain made of it. */
export type ChainRow = readonly Outcome[];

/** A threshold and what comes of it, as means over the texts. */
export interface CurvePoint {
  readonly tau: number;
  /** Share of the texts that the first model does not answer. */
  readonly escalated: number;
  readonly quality: number;
  readonly cost_microusd: number;
}

export interface RouteReport {
  /** The threshold with the fewest escalations whose quality is within 1% of always asking the last model. */
  readonly tau: number;
  readonly curve: readonly CurvePoint[];
  readonly always_first: CurvePoint;
  readonly always_last: CurvePoint;
  /** Expected calibration error of the first model's confidence, in 10 bins. */
  readonly ece: number;
  /** The threshold on texts that it was not fitted on. */
  readonly held_out: CurvePoint & { readonly always_last_quality: number; readonly within: boolean };
}

const WITHIN = 0.01;
const BINS = 10;
const POINTS = 100;

/** What a threshold comes to: each model answers whose confidence reaches it, and the last one what is left. */
export function pointAt(rows: readonly ChainRow[], tau: number): CurvePoint {
  let [escalated, quality, cost] = [0, 0, 0];
  for (const row of rows) {
    const found = row.findIndex(({ confidence }) => confidence === null || confidence >= tau);
    const last = found === -1 ? row.length - 1 : found;
    escalated += last > 0 ? 1 : 0;
    quality += row[last]!.quality;
    // Those that were asked before are paid too.
    for (const { costMicrousd } of row.slice(0, last + 1)) cost += costMicrousd;
  }
  const mean = (sum: number) => sum / rows.length;
  return { tau, escalated: mean(escalated), quality: mean(quality), cost_microusd: mean(cost) };
}

const lastOf = (rows: readonly ChainRow[]): CurvePoint => ({
  tau: 1,
  escalated: 1,
  quality: rows.reduce((sum, row) => sum + row.at(-1)!.quality, 0) / rows.length,
  cost_microusd: rows.reduce((sum, row) => sum + row.at(-1)!.costMicrousd, 0) / rows.length,
});

/** Fits the threshold on every other text, and checks it on the rest. @param rows at least 2. */
export function fitThreshold(rows: readonly ChainRow[]): RouteReport {
  const fitted = rows.filter((_, i) => i % 2 === 0);
  const rest = rows.filter((_, i) => i % 2 === 1);
  const confidences = fitted.flatMap((row) => row.slice(0, -1).map(({ confidence }) => confidence ?? 1));
  // Between two confidences nothing changes; a little above each the text is escalated.
  const taus = [0, ...new Set(confidences.map((c) => Math.min(1, c + 1e-9)).sort((a, b) => a - b))];
  const curve = taus.map((tau) => pointAt(fitted, tau));
  const best = lastOf(fitted);
  const enough = curve.filter(({ quality }) => quality >= best.quality * (1 - WITHIN));
  const chosen = enough[0] ?? curve.at(-1)!;
  const calibration = new Calibration(BINS);
  for (const [first] of fitted)
    if (first!.confidence !== null) calibration.add(first!.confidence, first!.quality >= 0.5);
  const checked = pointAt(rest, chosen.tau);
  const { quality } = lastOf(rest);
  const step = Math.max(1, Math.ceil(curve.length / POINTS));
  return {
    tau: chosen.tau,
    curve: curve.filter((_, i) => i % step === 0 || i === curve.length - 1),
    always_first: pointAt(fitted, 0),
    always_last: best,
    ece: calibration.value(),
    held_out: { ...checked, always_last_quality: quality, within: checked.quality >= quality * (1 - WITHIN) },
  };
}
