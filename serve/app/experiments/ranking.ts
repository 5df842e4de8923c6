import { philox4x32, seedWords } from "../../../core/random.ts";

/** A vote between the answers of two models: 1 for a, 0 for b, 0.5 for neither. */
export interface Vote {
  a: string;
  b: string;
  score: 0 | 0.5 | 1;
}

export interface Ranked {
  model: string;
  /** On Elo's scale: 400 points are odds of ten to one, 1000 is the middle. */
  rating: number;
  /** 95% of the bootstrap samples. */
  interval: [low: number, high: number];
  votes: number;
}

/**
 * The board of an arena: strengths in the model of Bradley and Terry (1952), in which a beats b with probability
 * s_a / (s_a + s_b), by minorise-maximise (Hunter 2004), best first; intervals from `samples` bootstrap samples of the votes. A tie
 * is half a win of both. Each model has one more tie with an opponent of strength 1, so that one that won every vote has a finite
 * strength.
 */
export function rankModels(votes: readonly Vote[], { samples = 1000, seed = 0 } = {}): Ranked[] {
  const models = [...new Set(votes.flatMap(({ a, b }) => [a, b]))].sort();
  const place = new Map(models.map((model, i) => [model, i]));
  const pairs = votes.map(({ a, b, score }) => ({ a: place.get(a)!, b: place.get(b)!, score }));
  const whole = ratings(tableOf(models.length, pairs, (i) => i));
  const key = seedWords(seed);
  const drawn = Array.from({ length: samples }, (_, sample) => {
    let words = new Uint32Array(4);
    const draw = (i: number) => {
      if (i % 4 === 0) words = philox4x32(key, [sample, i, 1, 0]);
      return Math.floor((words[i % 4] / 2 ** 32) * pairs.length);
    };
    return ratings(tableOf(models.length, pairs, draw));
  });
  const cut = Math.floor(samples * 0.025);
  const ranked = models.map((model, i) => {
    const sorted = drawn.map((each) => each[i]).sort((x, y) => x - y);
    const interval: Ranked["interval"] =
      samples > 0 ? [sorted[cut], sorted[samples - 1 - cut]] : [whole[i], whole[i]];
    return {
      model,
      rating: whole[i],
      interval,
      votes: pairs.filter(({ a, b }) => a === i || b === i).length,
    };
  });
  return ranked.sort((x, y) => y.rating - x.rating);
}

/** By model and opponent, how often each won. */
function tableOf(
  models: number,
  pairs: readonly { a: number; b: number; score: number }[],
  draw: (i: number) => number,
): Float64Array[] {
  const wins = Array.from({ length: models }, () => new Float64Array(models));
  for (let i = 0; i < pairs.length; i++) {
    const { a, b, score } = pairs[draw(i)];
    wins[a][b] += score;
    wins[b][a] += 1 - score;
  }
  return wins;
}

function ratings(wins: readonly Float64Array[]): number[] {
  let strengths = new Float64Array(wins.length).fill(1);
  for (let round = 0; round < 10_000; round++) {
    const next = strengths.map((own, i) => {
      let [won, met] = [0.5, 1 / (own + 1)];
      for (let j = 0; j < wins.length; j++) {
        won += wins[i][j];
        met += (wins[i][j] + wins[j][i]) / (own + strengths[j]);
      }
      return won / met;
    });
    const moved = next.reduce(
      (most, value, i) => Math.max(most, Math.abs(Math.log(value / strengths[i]))),
      0,
    );
    strengths = next;
    if (moved < 1e-9) break;
  }
  return Array.from(strengths, (strength) => 1000 + 400 * Math.log10(strength));
}
