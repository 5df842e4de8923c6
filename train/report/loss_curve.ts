import { escapeXml, ticks } from "./svg.ts";

/** A point of a curve: the update and the loss after it, in nats per token. */
export interface LossPoint {
  step: number;
  loss: number;
}

export interface LossCurve {
  title: string;
  train: readonly LossPoint[];
  validation: readonly LossPoint[];
  /** Pixels; default 720 x 400. */
  width?: number;
  height?: number;
}

const MARGIN = { left: 56, right: 96, top: 48, bottom: 48 };
/** More points than pixels only make the file large. */
const MAX_POINTS = 600;

// The file has both themes: a picture in a README or an editor takes the reader's own.
const STYLE = `
    svg { background: #ffffff; font: 12px system-ui, sans-serif; }
    text { fill: #52525b; } .title { fill: #18181b; font-size: 15px; font-weight: 600; }
    .grid { stroke: #e4e4e7; } .axis { stroke: #a1a1aa; }
    .line { fill: none; stroke-width: 2; stroke-linejoin: round; }
    .train { stroke: #2563eb; } .raw { stroke-width: 1; opacity: 0.3; } .validation { stroke: #c2410c; }
    .dot { stroke: none; fill: #c2410c; } .train-text { fill: #2563eb; } .validation-text { fill: #c2410c; }
    @media (prefers-color-scheme: dark) {
      svg { background: #18181b; } text { fill: #a1a1aa; } .title { fill: #fafafa; }
      .grid { stroke: #3f3f46; } .axis { stroke: #71717a; }
      .train { stroke: #60a5fa; } .validation { stroke: #fb923c; }
      .dot { fill: #fb923c; } .train-text { fill: #60a5fa; } .validation-text { fill: #fb923c; }
    }`;

/** Averages neighbours until at most MAX_POINTS are left. */
function thin(points: readonly LossPoint[]): LossPoint[] {
  const size = Math.ceil(points.length / MAX_POINTS);
  const mean = (values: number[]) => values.reduce((a, b) => a + b, 0) / values.length;
  return Array.from({ length: Math.ceil(points.length / size) || 0 }, (_, i) => {
    const group = points.slice(i * size, (i + 1) * size);
    return { step: mean(group.map(({ step }) => step)), loss: mean(group.map(({ loss }) => loss)) };
  });
}

/**
 * A centred moving average over a thirtieth of the curve. The window is narrow at the steep start, where a wide one would
 * lag, and one-sided at the end, so that the last value is more than a single noisy step.
 */
function smooth(points: readonly LossPoint[]): LossPoint[] {
  const half = Math.floor(points.length / 60);
  return points.map(({ step }, i) => {
    const reach = Math.min(half, i);
    const group = points.slice(i - reach, i + reach + 1);
    return { step, loss: group.reduce((sum, { loss }) => sum + loss, 0) / group.length };
  });
}

/**
 * The training and validation losses of a run as an SVG picture: each training loss faintly, their moving average in full,
 * validation losses as dots on a line. Points that are not finite are left out.
 */
export function lossCurveSvg({ title, train, validation, width = 720, height = 400 }: LossCurve): string {
  const finite = (points: readonly LossPoint[]) => points.filter(({ loss }) => Number.isFinite(loss));
  const raw = thin(finite(train));
  const measured = thin(finite(validation));
  const all = [...raw, ...measured];
  const losses = all.map(({ loss }) => loss);
  const lastStep = Math.max(1, ...all.map(({ step }) => step));
  const lowest = losses.length > 0 ? Math.min(...losses) : 0;
  const highest = losses.length > 0 ? Math.max(...losses) : 1;
  const room = Math.max(1e-3, (highest - lowest) * 0.05);
  const low = Math.max(0, lowest - room);
  const high = highest + room;
  const right = width - MARGIN.right;
  const bottom = height - MARGIN.bottom;
  const x = (step: number) => MARGIN.left + (step / lastStep) * (right - MARGIN.left);
  const y = (loss: number) => bottom - ((loss - low) / (high - low)) * (bottom - MARGIN.top);
  const at = (point: LossPoint) => `${x(point.step).toFixed(1)},${y(point.loss).toFixed(1)}`;
  const path = (points: LossPoint[], style: string) =>
    points.length < 2 ? [] : [`<polyline class="line ${style}" points="${points.map(at).join(" ")}"/>`];
  const average = smooth(raw);
  const axes = axisMarks(x, y, ticks(0, lastStep, 6), ticks(low, high, 5), right, bottom);
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" role="img">
  <title>${escapeXml(title)}</title>
  <style>${STYLE}
  </style>
  ${[
    `<text class="title" x="${MARGIN.left}" y="26">${escapeXml(title)}</text>`,
    ...axes,
    `<text x="${(MARGIN.left + right) / 2}" y="${height - 10}" text-anchor="middle">step</text>`,
    `<text transform="translate(16 ${(MARGIN.top + bottom) / 2}) rotate(-90)" text-anchor="middle">loss (nats per token)</text>`,
    ...path(raw, "train raw"),
    ...path(average, "train"),
    ...path(measured, "validation"),
    ...measured.map(
      (p) => `<circle class="dot" cx="${x(p.step).toFixed(1)}" cy="${y(p.loss).toFixed(1)}" r="3"/>`,
    ),
    ...labels(average.at(-1), measured.at(-1), y, right, bottom),
  ].join("\n  ")}
</svg>
`;
}

type Scale = (value: number) => number;

function axisMarks(
  x: Scale,
  y: Scale,
  steps: number[],
  losses: number[],
  right: number,
  bottom: number,
): string[] {
  const horizontal = losses.flatMap((loss) => [
    `<line class="grid" x1="${MARGIN.left}" x2="${right}" y1="${y(loss).toFixed(1)}" y2="${y(loss).toFixed(1)}"/>`,
    `<text x="${MARGIN.left - 8}" y="${(y(loss) + 4).toFixed(1)}" text-anchor="end">${loss}</text>`,
  ]);
  const marks = steps.flatMap((step) => [
    `<line class="axis" x1="${x(step).toFixed(1)}" x2="${x(step).toFixed(1)}" y1="${bottom}" y2="${bottom + 5}"/>`,
    `<text x="${x(step).toFixed(1)}" y="${bottom + 19}" text-anchor="middle">${step}</text>`,
  ]);
  return [
    ...horizontal,
    ...marks,
    `<line class="axis" x1="${MARGIN.left}" x2="${right}" y1="${bottom}" y2="${bottom}"/>`,
  ];
}

/** The name and last value of each curve at its right end, moved apart if they would touch. */
function labels(
  train: LossPoint | undefined,
  validation: LossPoint | undefined,
  y: Scale,
  right: number,
  bottom: number,
) {
  const rows = [
    { name: "train", style: "train-text", point: train },
    { name: "val", style: "validation-text", point: validation },
  ].flatMap(({ name, style, point }) =>
    point ? [{ name, style, loss: point.loss, y: y(point.loss) + 4 }] : [],
  );
  rows.sort((a, b) => a.y - b.y);
  const [upper, lower] = rows;
  if (upper && lower && lower.y - upper.y < 16) {
    const middle = Math.min((upper.y + lower.y) / 2, bottom - 8);
    upper.y = middle - 8;
    lower.y = middle + 8;
  }
  return rows.map(
    ({ name, style, loss, y: top }) =>
      `<text class="${style}" x="${right + 8}" y="${top.toFixed(1)}">${name} ${loss.toFixed(3)}</text>`,
  );
}
