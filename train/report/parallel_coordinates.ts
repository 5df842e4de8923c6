import type { Dimension } from "../sweep/space.ts";
import type { Trial } from "../sweep/trial.ts";
import { escapeXml, ticks } from "./svg.ts";

interface Picture {
  title: string;
  metric: string;
  /** Best first. */
  trials: readonly Trial[];
  space: Readonly<Record<string, Dimension>>;
}

interface Axis {
  name: string;
  /** Place of a value from 0 (bottom) to 1; null where it has none. */
  at(value: unknown): number | null;
  marks: readonly { text: string; at: number }[];
}

const height = 420;
const top = 76;
const bottom = height - 36;
const style = `
    svg { background: #ffffff; font: 12px system-ui, sans-serif; }
    text { fill: #52525b; } .title { fill: #18181b; font-size: 15px; font-weight: 600; } .name { fill: #18181b; }
    .axis { stroke: #a1a1aa; } .trial { fill: none; stroke: #2563eb; stroke-width: 1.2; }
    .best { stroke: #c2410c; stroke-width: 2.5; opacity: 1; }
    @media (prefers-color-scheme: dark) {
      svg { background: #18181b; } text { fill: #a1a1aa; } .title, .name { fill: #fafafa; }
      .axis { stroke: #71717a; } .trial { stroke: #60a5fa; } .best { stroke: #fb923c; }
    }`;

/**
 * The trials of a sweep in parallel coordinates (Inselberg 1985): an axis for each setting and one for the metric, a line
 * for each trial, fainter the worse it did, the best in another colour. As SVG.
 */
export function parallelCoordinatesSvg({ title, metric, trials, space }: Picture): string {
  const measured = trials.filter(({ value }) => value !== null);
  const axes = [
    ...Object.entries(space).map(([name, dimension]) => settingAxis(name, dimension)),
    metricAxis(
      metric,
      measured.map(({ value }) => value!),
    ),
  ];
  const width = Math.max(480, axes.length * 150 + 40);
  const x = (i: number) => 80 + (i * (width - 170)) / Math.max(1, axes.length - 1);
  const y = (at: number) => bottom - at * (bottom - top);
  const line = ({ name, settings, value }: Trial, place: number) => {
    const values = [...Object.keys(space).map((key) => settings[key]), value];
    const points = values.map((v, i) => `${x(i).toFixed(1)},${y(axes[i].at(v) ?? 0).toFixed(1)}`).join(" ");
    const opacity = Math.max(0.15, 0.8 * (1 - place / measured.length)).toFixed(2);
    const look = place === 0 ? 'class="trial best"' : `class="trial" opacity="${opacity}"`;
    return `<polyline ${look} points="${points}"><title>${name}: ${metric} ${value}</title></polyline>`;
  };
  const axisMarks = axes.flatMap(({ name, marks }, i) => [
    `<line class="axis" x1="${x(i)}" x2="${x(i)}" y1="${top}" y2="${bottom}"/>`,
    `<text class="name" x="${x(i)}" y="${top - 14}" text-anchor="middle">${escapeXml(name.replace(/^train\./, ""))}</text>`,
    // The last axis has its numbers on the outside, where no line crosses them.
    ...marks.map(({ text, at }) => {
      const side = i === axes.length - 1 ? `x="${x(i) + 6}"` : `x="${x(i) - 6}" text-anchor="end"`;
      return `<text ${side} y="${(y(at) + 4).toFixed(1)}">${escapeXml(text)}</text>`;
    }),
  ]);
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" role="img">
  <title>${escapeXml(title)}</title>
  <style>${style}
  </style>
  <text class="title" x="24" y="26">${escapeXml(title)}: ${measured.length} trials, the best in colour</text>
  ${[...measured.map(line).reverse(), ...axisMarks].join("\n  ")}
</svg>
`;
}

function settingAxis(name: string, dimension: Dimension): Axis {
  if ("values" in dimension) {
    const { values } = dimension;
    const place = (i: number) => (values.length === 1 ? 0.5 : i / (values.length - 1));
    const at = (value: unknown) =>
      place(values.findIndex((v) => JSON.stringify(v) === JSON.stringify(value)));
    return { name, at, marks: values.map((value, i) => ({ text: String(value), at: place(i) })) };
  }
  const { min, max, scale } = dimension;
  const shape = scale === "log" ? Math.log : (v: number) => v;
  const at = (value: unknown) =>
    max === min ? 0.5 : (shape(Number(value)) - shape(min)) / (shape(max) - shape(min));
  const inner = scale === "log" ? powersBetween(min, max) : ticks(min, max, 5);
  const shown = inner.length > 1 ? inner : [min, max];
  return { name, at, marks: shown.map((value) => ({ text: String(value), at: at(value) })) };
}

function powersBetween(min: number, max: number): number[] {
  const [low, high] = [Math.ceil(Math.log10(min) - 1e-9), Math.floor(Math.log10(max) + 1e-9)];
  return Array.from({ length: Math.max(0, high - low + 1) }, (_, i) =>
    Number((10 ** (low + i)).toPrecision(1)),
  );
}

function metricAxis(name: string, values: readonly number[]): Axis {
  const [min, max] = [Math.min(...values), Math.max(...values)];
  if (!(max > min))
    return { name, at: () => 0.5, marks: values.length ? [{ text: min.toPrecision(4), at: 0.5 }] : [] };
  const at = (value: unknown) => (Number(value) - min) / (max - min);
  return { name, at, marks: ticks(min, max, 5).map((value) => ({ text: String(value), at: at(value) })) };
}
