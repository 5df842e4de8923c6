import type { BenchReport, BenchResult } from "../report.ts";
import {
  type Box,
  element,
  escapeText,
  label,
  leaderEnd,
  placeLabel,
  polyline,
  scale,
  short,
} from "./svg.ts";

interface Point {
  number: number;
  result: BenchResult;
  /** Operations a byte. */
  intensity: number;
  rate: number;
}

/** How a plot is laid out: wide ones have room for names beside points, narrow ones number them. */
interface Layout {
  width: number;
  height: number;
  font: number;
  named: boolean;
}

/** More names than this cannot be told apart: then points have numbers, and the table their names. */
const mostNames = 24;
const wideNamed: Layout = { width: 980, height: 560, font: 12, named: true };
const wideNumbered: Layout = { width: 980, height: 620, font: 11, named: false };
const narrow: Layout = { width: 360, height: 440, font: 11, named: false };

/**
 * The roofline of a run (Williams et al. 2009): what the adapter allows at each number of operations a byte, and where
 * kiln's rows lie. One plot for wide screens and one for narrow ones, and the rows as a table.
 */
export function rooflinePlot(run: BenchReport): string {
  const points = run.results
    .filter((r) => r.by === "kiln" && r.ms !== undefined)
    .map((result, i) => ({
      number: i + 1,
      result,
      intensity: result.gflops! / result.gb_per_s!,
      rate: result.gflops!,
    }));
  if (points.length === 0) return "";
  return [
    element(
      "div",
      { class: "wide" },
      draw(run, points, points.length > mostNames ? wideNumbered : wideNamed),
    ),
    element("div", { class: "narrow" }, draw(run, points, narrow)),
    legend(points),
  ].join("\n");
}

function draw(run: BenchReport, points: readonly Point[], layout: Layout): string {
  const { width, height } = layout;
  const plot: Box = { x: 52, y: 16, width: width - 68, height: height - 62 };
  const { gflops, gb_per_s, f16_gflops = gflops } = run.roofline;
  const decade = (value: number, round: (x: number) => number) => round(Math.log10(value));
  const xs = [...points.map((p) => p.intensity), f16_gflops / gb_per_s];
  const ys = [...points.map((p) => p.rate), f16_gflops * 1.2];
  const [x0, x1] = [decade(Math.min(...xs) * 0.9, Math.floor), decade(Math.max(...xs) * 1.1, Math.ceil)];
  const [y0, y1] = [decade(Math.min(...ys) * 0.9, Math.floor), decade(Math.max(...ys), Math.ceil)];
  const logX = scale(x0, x1, plot.x, plot.x + plot.width);
  const logY = scale(y0, y1, plot.y + plot.height, plot.y);
  const x = (value: number) => logX(Math.log10(value));
  const y = (value: number) => logY(Math.log10(value));
  return element(
    "svg",
    {
      viewBox: `0 0 ${width} ${height}`,
      role: "img",
      "aria-label": "roofline: operations a byte against GFLOP/s",
      "font-size": layout.font,
    },
    ...decades(plot, [x0, x1], [y0, y1], logX, logY),
    ...roofs(run, plot, [x0, x1, y0], x, y, layout),
    ...marks(points, plot, x, y, layout, roofBoxes(run, plot, [x0, x1, y0], x, y)),
  );
}

function decades(
  plot: Box,
  [x0, x1]: [number, number],
  [y0, y1]: [number, number],
  logX: (v: number) => number,
  logY: (v: number) => number,
): string[] {
  const bottom = plot.y + plot.height;
  const parts: string[] = [];
  for (let e = x0; e <= x1; e++) {
    parts.push(element("line", { class: "rule", x1: logX(e), x2: logX(e), y1: plot.y, y2: bottom }));
    parts.push(label(logX(e), bottom + 17, short(10 ** e), { class: "tick", "text-anchor": "middle" }));
  }
  for (let e = y0; e <= y1; e++) {
    parts.push(
      element("line", { class: "rule", x1: plot.x, x2: plot.x + plot.width, y1: logY(e), y2: logY(e) }),
    );
    parts.push(label(plot.x - 7, logY(e) + 4, short(10 ** e), { class: "tick", "text-anchor": "end" }));
  }
  const middle = plot.x + plot.width / 2;
  parts.push(label(middle, bottom + 36, "operations a byte", { class: "tick", "text-anchor": "middle" }));
  parts.push(
    element(
      "text",
      {
        class: "tick",
        "text-anchor": "middle",
        transform: `translate(12 ${plot.y + plot.height / 2}) rotate(-90)`,
      },
      "GFLOP/s",
    ),
  );
  return parts;
}

/** The slanted roof from where it enters the plot, then the flat one. */
function roofPoints(
  { roofline: { gflops: f32_gflops, gb_per_s } }: BenchReport,
  [x0, x1, y0]: readonly number[],
  gflops = f32_gflops,
) {
  const ridge = gflops / gb_per_s;
  const from = Math.max(10 ** x0!, 10 ** y0! / gb_per_s);
  return [
    [from, from * gb_per_s],
    [ridge, gflops],
    [10 ** x1!, gflops],
  ] as const;
}

function roofs(
  run: BenchReport,
  plot: Box,
  range: readonly number[],
  x: (v: number) => number,
  y: (v: number) => number,
  { width }: Layout,
): string[] {
  const { gflops, gb_per_s, f16_gflops } = run.roofline;
  const places = roofPoints(run, range).map(([a, b]) => [x(a), y(b)] as const);
  const [[ax, ay], [bx, by]] = places as [readonly [number, number], readonly [number, number], unknown];
  const angle = (Math.atan2(by - ay, bx - ax) * 180) / Math.PI;
  const [mx, my] = [ax + 0.3 * (bx - ax), ay + 0.3 * (by - ay)];
  const high = f16_gflops ? roofPoints(run, range, f16_gflops).map(([a, b]) => [x(a), y(b)] as const) : [];
  const slanted = `copy ${short(gb_per_s)} GB/s`;
  const flat = width > 500 ? `f32 multiply-add ${short(gflops)} GFLOP/s` : `fma ${short(gflops)} GFLOP/s`;
  const right = { class: "tick", "text-anchor": "end" };
  const above = f16_gflops
    ? [
        polyline(high, { class: "roof dashed" }),
        label(
          plot.x + plot.width - 6,
          high[1][1] - 7,
          `f16${width > 500 ? " matrix units, by the maker," : ""} ${short(f16_gflops)} GFLOP/s`,
          right,
        ),
      ]
    : [];
  return [
    ...above,
    polyline(places, { class: "roof" }),
    element(
      "text",
      {
        class: "tick",
        transform: `translate(${mx.toFixed(1)} ${(my - 8).toFixed(1)}) rotate(${angle.toFixed(1)})`,
      },
      escapeText(slanted),
    ),
    label(plot.x + plot.width - 6, by - 7, flat, right),
  ];
}

/** What labels must not lie on: the roofs themselves, in small boxes along the lines, and their names above. */
function roofBoxes(
  run: BenchReport,
  plot: Box,
  range: readonly number[],
  x: (v: number) => number,
  y: (v: number) => number,
): Box[] {
  const { gflops, f16_gflops } = run.roofline;
  const each = [gflops, ...(f16_gflops ? [f16_gflops] : [])];
  return each.flatMap((peak) => {
    const [a, b, c] = roofPoints(run, range, peak).map(([p, q]) => [x(p), y(q)] as const) as [
      readonly [number, number],
      readonly [number, number],
      readonly [number, number],
    ];
    const steps = 60;
    const slanted = Array.from({ length: steps }, (_, i) => {
      const t = i / steps;
      // A little above as well: there stands the roof's name.
      return { x: a[0] + t * (b[0] - a[0]) - 6, y: a[1] + t * (b[1] - a[1]) - 20, width: 12, height: 26 };
    });
    return [...slanted, { x: b[0], y: b[1] - 20, width: Math.max(c[0] - b[0], plot.width / 4), height: 25 }];
  });
}

function marks(
  points: readonly Point[],
  plot: Box,
  x: (v: number) => number,
  y: (v: number) => number,
  { font, named }: Layout,
  roofs: readonly Box[],
): string[] {
  const places = points.map((p) => [x(p.intensity), y(p.rate)] as const);
  const taken: Box[] = [
    ...roofs,
    ...places.map(([px, py]) => ({ x: px - 6, y: py - 6, width: 12, height: 12 })),
  ];
  return points.map((point, i) => {
    const [px, py] = places[i];
    const text = named ? point.result.name : String(point.number);
    const box = placeLabel([px, py], [text.length * font * 0.61 + 6, font + 4], plot, taken);
    const end = leaderEnd([px, py], box);
    const far = Math.hypot(end[0] - px, end[1] - py) > 14;
    const note = `${point.number}. ${point.result.name}: ${short(point.rate)} GFLOP/s at ${short(point.intensity)} operations a byte`;
    return element(
      "g",
      { "data-row": point.result.name },
      ...(far ? [element("line", { class: "leader", x1: px, y1: py, x2: end[0], y2: end[1] })] : []),
      element(
        "circle",
        { class: point.result.precision === "f16" ? "dot half" : "dot", cx: px, cy: py, r: 4.5 },
        element("title", {}, escapeText(note)),
      ),
      label(box.x + 2, box.y + font, text, { class: "name" }),
    );
  });
}

function legend(points: readonly Point[]): string {
  const cells = (kind: string, values: readonly string[]) =>
    element("tr", {}, ...values.map((value) => element(kind, {}, escapeText(value))));
  const rows = points.map(({ number, result, intensity, rate }) =>
    cells("td", [
      String(number),
      result.name,
      short(intensity),
      `${short(rate)}`,
      short(result.gb_per_s!),
      result.roofline === undefined ? "" : `${(100 * result.roofline).toFixed(1)} %`,
    ]),
  );
  const head = cells("th", ["", "row", "operations a byte", "GFLOP/s", "GB/s", "of roof"]);
  return element(
    "div",
    { class: "scroll" },
    element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows)),
  );
}
