import type { LrRange } from "../lr_range_test.ts";
import { escapeXml, ticks } from "./svg.ts";

const [width, height] = [720, 400];
const [left, right, top, bottom] = [64, width - 40, 48, height - 48];
const style = `
    svg { background: #ffffff; font: 12px system-ui, sans-serif; }
    text { fill: #52525b; } .title { fill: #18181b; font-size: 15px; font-weight: 600; }
    .grid { stroke: #e4e4e7; } .axis { stroke: #a1a1aa; } .smooth { fill: none; stroke: #2563eb; stroke-width: 2; }
    .raw { fill: #2563eb; opacity: 0.35; } .mark { stroke: #c2410c; stroke-dasharray: 4 3; } .mark-text { fill: #c2410c; }
    @media (prefers-color-scheme: dark) {
      svg { background: #18181b; } text { fill: #a1a1aa; } .title { fill: #fafafa; } .grid { stroke: #3f3f46; }
      .axis { stroke: #71717a; } .smooth { stroke: #60a5fa; } .raw { fill: #60a5fa; }
      .mark { stroke: #fb923c; } .mark-text { fill: #fb923c; }
    }`;

/** The loss over the learning rate, which is drawn by its logarithm, as SVG: single losses, their average, suggestions. */
export function lrRangeSvg(
  picture: Pick<LrRange, "trials" | "steepest" | "suggestion"> & { title: string },
): string {
  const { trials, title } = picture;
  const logs = trials.map(({ learning_rate }) => Math.log10(learning_rate));
  const losses = trials.map(({ smoothed }) => smoothed);
  const [low, high] = [Math.min(...losses), Math.max(...losses)];
  const room = Math.max(1e-3, (high - low) * 0.08);
  const [first, last] = [Math.min(...logs), Math.max(...logs, Math.min(...logs) + 1)];
  const x = (rate: number) => left + ((Math.log10(rate) - first) / (last - first)) * (right - left);
  const y = (loss: number) => bottom - ((loss - low + room) / (high - low + 2 * room)) * (bottom - top);
  const inside = trials.filter(({ loss }) => loss >= low - room && loss <= high + room);
  const powers = Array.from(
    { length: Math.floor(last) - Math.ceil(first - 1e-9) + 1 },
    (_, i) => Math.ceil(first - 1e-9) + i,
  );
  const marks = [
    { rate: picture.suggestion, text: "suggestion", at: top + 12 },
    { rate: picture.steepest, text: "steepest", at: top + 28 },
  ].flatMap(({ rate, text, at }) =>
    rate === null
      ? []
      : [
          `<line class="mark" x1="${x(rate).toFixed(1)}" x2="${x(rate).toFixed(1)}" y1="${top}" y2="${bottom}"/>`,
          `<text class="mark-text" x="${(x(rate) + 5).toFixed(1)}" y="${at}">${text} ${rate}</text>`,
        ],
  );
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" role="img">
  <title>${escapeXml(title)}</title>
  <style>${style}
  </style>
  ${[
    `<text class="title" x="${left}" y="26">${escapeXml(title)}</text>`,
    ...ticks(low - room, high + room, 5).flatMap((loss) => [
      `<line class="grid" x1="${left}" x2="${right}" y1="${y(loss).toFixed(1)}" y2="${y(loss).toFixed(1)}"/>`,
      `<text x="${left - 8}" y="${(y(loss) + 4).toFixed(1)}" text-anchor="end">${loss}</text>`,
    ]),
    ...powers.map(
      (p) => `<text x="${x(10 ** p).toFixed(1)}" y="${bottom + 19}" text-anchor="middle">1e${p}</text>`,
    ),
    `<line class="axis" x1="${left}" x2="${right}" y1="${bottom}" y2="${bottom}"/>`,
    `<text x="${(left + right) / 2}" y="${height - 10}" text-anchor="middle">learning rate</text>`,
    `<text transform="translate(16 ${(top + bottom) / 2}) rotate(-90)" text-anchor="middle">loss</text>`,
    ...inside.map(
      ({ learning_rate, loss }) =>
        `<circle class="raw" cx="${x(learning_rate).toFixed(1)}" cy="${y(loss).toFixed(1)}" r="2"/>`,
    ),
    `<polyline class="smooth" points="${trials.map((t) => `${x(t.learning_rate).toFixed(1)},${y(t.smoothed).toFixed(1)}`).join(" ")}"/>`,
    ...marks,
  ].join("\n  ")}
</svg>
`;
}
