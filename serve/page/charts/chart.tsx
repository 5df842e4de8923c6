import { useEffect, useRef, useState } from "preact/hooks";
import uPlot from "uplot";
import { t } from "../messages.screens.en.ts";
import { hue, number } from "../render/format.ts";
import { theme } from "../state/local.ts";
import { type ChartData, ChartTable, type Series } from "./data.tsx";

/** A chart with its table and its file: whoever cannot see the one has the others. */
export function Chart({ chart }: { chart: ChartData }) {
  const [asTable, setAsTable] = useState(false);
  const head = [t.charts.day, ...chart.series.map(({ name }) => name)];
  return (
    <figure class="chart">
      <figcaption class="row">
        <h2>{chart.title}</h2>
        <small>{chart.unit}</small>
        <span class="grow" />
        <button type="button" class="quiet" aria-pressed={asTable} onClick={() => setAsTable(!asTable)}>
          {t.charts.table}
        </button>
        <a class="button quiet" download={`${chart.title}.csv`} href={csv(head, chart)}>
          {t.charts.csv}
        </a>
      </figcaption>
      {asTable ? <ChartTable chart={chart} /> : <Drawing chart={chart} />}
    </figure>
  );
}

/** A cell that a spreadsheet would take for a formula begins with an apostrophe. */
function cell(value: string): string {
  const safe = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
  return /[",\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

function csv(head: readonly string[], { days, series }: ChartData): string {
  const rows = days.map((day, i) => [day, ...series.map(({ values }) => String(values[i] ?? ""))].join());
  return `data:text/csv;charset=utf-8,${encodeURIComponent([head.map(cell).join(), ...rows].join("\n"))}`;
}

function Drawing({ chart }: { chart: ChartData }) {
  const element = useRef<HTMLDivElement>(null);
  const chosen = theme.value;
  useEffect(() => {
    const host = element.current!;
    const times = chart.days.map((day) => Date.parse(day) / 1000);
    const plot = new uPlot(
      options(chart, host),
      [times, ...drawn(chart).map(({ values }) => [...values])],
      host,
    );
    const observer = new ResizeObserver(() => plot.setSize({ width: host.clientWidth, height: 220 }));
    observer.observe(host);
    const scheme = matchMedia("(prefers-color-scheme: dark)");
    const redraw = () => plot.redraw();
    scheme.addEventListener("change", redraw);
    return () => {
      scheme.removeEventListener("change", redraw);
      observer.disconnect();
      plot.destroy();
    };
  }, [chart, chosen]);
  const first = chart.series[0];
  const label = t.charts.label(chart.title, chart.days[0], chart.days.at(-1) ?? "", first?.name ?? "");
  return <div class="drawing" ref={element} role="img" aria-label={label} />;
}

/** In the order of drawing: bars stand on the sum of those before them, so the highest comes first. */
function drawn({ series }: ChartData): Series[] {
  if (!series.some(({ bars }) => bars)) return [...series];
  const sums = (upTo: number) => (value: number | null, i: number) =>
    series.slice(0, upTo).reduce((sum, { values }) => sum + (values[i] ?? 0), value ?? 0);
  return series.map((one, index) => ({ ...one, values: one.values.map(sums(index)) })).reverse();
}

/** Colours are read when something is drawn: they follow the theme. */
function options(chart: ChartData, host: HTMLElement): uPlot.Options {
  const bars = chart.series.some((series) => series.bars);
  const stroke =
    ({ model, name, edge }: Series, index: number) =>
    () => {
      const light = isDark() ? 74 : 55;
      if (edge) return `oklch(${light}% 0 0 / 0.6)`;
      return `oklch(${light}% 0.15 ${model ? hue(name) : 265 + 130 * index})`;
    };
  const axis = {
    stroke: () => getComputedStyle(host).color,
    grid: { stroke: () => getComputedStyle(host).borderTopColor, width: 1 },
    ticks: { show: false },
  };
  const series = drawn(chart).map((one, index): uPlot.Series => {
    const paint = stroke(one, index);
    const { values } = chart.series.find(({ name }) => name === one.name)!;
    return {
      label: one.name,
      stroke: paint,
      width: one.edge ? 1 : 2,
      ...(one.edge && { dash: [4, 4] }),
      ...(one.bars && { fill: paint, paths: uPlot.paths.bars!({ size: [0.7, 40] }) }),
      points: { show: !one.bars && !one.edge && chart.days.length < 40 },
      value: (_plot, _value, _series, at) => (at === null ? "–" : number(values[at] ?? null)),
    };
  });
  return {
    width: host.clientWidth,
    height: 220,
    series: [{ label: t.charts.day, value: "{YYYY}-{MM}-{DD}" }, ...series],
    axes: [
      { ...axis, values: (_plot, times) => times.map(dayOf) },
      { ...axis, size: 52 },
    ],
    scales: {
      // Half a day on both sides, where bars stand.
      x: { time: true, range: (_plot, from, to) => [from - (bars ? 43_200 : 0), to + (bars ? 43_200 : 0)] },
      y: { range: rangeOf(chart) },
    },
    tzDate: (time) => uPlot.tzDate(new Date(time * 1000), "UTC"),
    cursor: { drag: { x: false, y: false } },
  };
}

const isDark = () =>
  theme.value === "dark" || (theme.value === "system" && matchMedia("(prefers-color-scheme: dark)").matches);

const dayOf = (time: number) => new Date(time * 1000).toISOString().slice(5, 10);

/** From zero, unless something is below it. */
const rangeOf =
  ({ series }: ChartData): uPlot.Range.Function =>
  (_plot, low, high) => {
    const below = series.some(({ edge }) => edge) ? Math.min(0, low) : 0;
    return [below * 1.1, (high || 1) * 1.1];
  };
