import type { BenchReport, BenchResult } from "../report.ts";
import {
  type Attributes,
  element,
  escapeText,
  label,
  polyline,
  roundUp,
  scale,
  short,
  spread,
} from "./svg.ts";

/** One library's rates of one row, run by run. */
interface Series {
  by: string;
  /** Run number and rate. */
  points: { run: number; value: number; result: BenchResult }[];
}

const [width, height] = [330, 150];
const plot = { left: 34, right: 214, top: 14, bottom: 126 };

/** The name of a library without its version. */
export function libraryOf(by: string): string {
  return by.replace(/ [\d.]+\S*$/, "");
}

/** Short enough to stand beside a line with its value. */
const shortNames: Record<string, string> = { "onnxruntime-web": "ort-web" };

/** A class for a library's colour: kiln is the accent, the others have one each. */
export function colourOf(library: string): string {
  const known = ["kiln", "gpu.js", "jax-js", "tfjs", "onnxruntime-web"];
  return `series-${Math.max(known.indexOf(library), 0)}`;
}

const rateOf = (result: BenchResult) => (result.unit === "GFLOP/s" ? result.gflops! : result.gb_per_s!);

/** A figure for each row of these runs (of one adapter and set of toggles): its rate over the runs, peers beside kiln. */
export function historyPlots(runs: readonly BenchReport[]): string {
  const names = new Set(runs.flatMap(({ results }) => results.map(({ name }) => name)));
  const figures = [...names].map((name) => {
    const unit = runs.flatMap(({ results }) => results).find((r) => r.name === name)!.unit;
    const heading = element("figcaption", {}, escapeText(name), element("span", {}, ` ${unit}`));
    return element("figure", { "data-row": name }, heading, rowPlot(name, runs));
  });
  return element("div", { class: "grid" }, ...figures);
}

function seriesOf(name: string, runs: readonly BenchReport[]): Series[] {
  const found = new Map<string, Series>();
  runs.forEach(({ results }, run) => {
    for (const result of results) {
      if (result.name !== name || result.ms === undefined) continue;
      const by = libraryOf(result.by);
      const series = found.get(by) ?? { by, points: [] };
      found.set(by, series);
      series.points.push({ run, value: rateOf(result), result });
    }
  });
  return [...found.values()];
}

function rowPlot(name: string, runs: readonly BenchReport[]): string {
  const series = seriesOf(name, runs);
  const values = series.flatMap(({ points }) => points.map(({ value }) => value));
  const top = values.length > 0 ? roundUp(Math.max(...values)) : 1;
  const middle = (plot.left + plot.right) / 2;
  const across = scale(0, runs.length - 1, plot.left + 6, plot.right - 4);
  const x = (run: number) => (runs.length === 1 ? middle : across(run));
  const y = scale(0, top, plot.bottom, plot.top);
  const ends = series.map(({ points }) => y(points.at(-1)!.value));
  const heights = spread(ends, 14, plot.top + 2, plot.bottom);
  const lines = series.map((one, i) => seriesMarks(one, heights[i], x, y, runs));
  return element(
    "svg",
    { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${name} over ${runs.length} runs` },
    ...axes(top, y, runs, x),
    // kiln last, so that it lies on top.
    ...lines.reverse(),
  );
}

function axes(
  top: number,
  y: (value: number) => number,
  runs: readonly BenchReport[],
  x: (run: number) => number,
): string[] {
  const line = (value: number, kind: string) =>
    element("line", { class: kind, x1: plot.left, x2: plot.right, y1: y(value), y2: y(value) });
  const number = (value: number) =>
    label(plot.left - 5, y(value) + 4, short(value), { class: "tick", "text-anchor": "end" });
  const day = (run: number) => runs[run].date.slice(0, 10);
  const last = runs.length - 1;
  const days =
    last === 0
      ? [label(x(0), height - 6, day(0), { class: "tick", "text-anchor": "middle" })]
      : [
          label(plot.left, height - 6, day(0), { class: "tick" }),
          label(plot.right, height - 6, day(last), { class: "tick", "text-anchor": "end" }),
        ];
  return [
    line(0, "axis"),
    line(top / 2, "rule"),
    line(top, "rule"),
    number(0),
    number(top / 2),
    number(top),
    ...days,
  ];
}

function seriesMarks(
  { by, points }: Series,
  labelHeight: number,
  x: (run: number) => number,
  y: (value: number) => number,
  runs: readonly BenchReport[],
): string {
  const kind = colourOf(by);
  const places = points.map(({ run, value }) => [x(run), y(value)] as const);
  const dots = points.map(({ run, value, result }, i) => {
    const { commit, date } = runs[run];
    const [cx, cy] = places[i];
    const note = `${result.by}: ${short(value)} ${result.unit}, ${short(result.ms!)} ms, commit ${commit}, ${date}`;
    const mark: Attributes = { cx, cy, r: by === "kiln" ? 3.5 : 2.5, class: "dot" };
    return element("circle", mark, element("title", {}, escapeText(note)));
  });
  const [endX, endY] = places.at(-1)!;
  const leader = element("line", {
    class: "leader",
    x1: endX + 5,
    y1: endY,
    x2: plot.right + 8,
    y2: labelHeight,
  });
  const text = label(
    plot.right + 11,
    labelHeight + 4,
    `${shortNames[by] ?? by} ${short(points.at(-1)!.value)}`,
    {
      class: "name",
    },
  );
  const line = places.length > 1 ? [polyline(places, { class: "line" })] : [];
  return element("g", { class: kind }, ...line, leader, ...dots, text);
}
