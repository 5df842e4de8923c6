// Draws the sections of the benchmark page (index.ts) with uPlot. Text reaches the page as text nodes only.
/* global uPlot */

const known = ["kiln", "gpu.js", "jax-js", "tfjs", "onnxruntime-web", "llama.cpp"];
const library = (by) => by.replace(/ [\d.]+\S*$/, "");
const rate = (result) => (result.unit === "GFLOP/s" ? result.gflops : result.gb_per_s);
const short = (value) => (value == null ? "" : Number(value.toPrecision(3)).toLocaleString("en"));
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`);

function add(parent, tag, text = "", kind = "") {
  const made = parent.appendChild(document.createElement(tag));
  made.textContent = text;
  if (kind) made.className = kind;
  return made;
}

/** Charts take their colours when they are made, so a change of theme makes all of them again. */
const charts = [];
function chart(parent, height, options, data) {
  const entry = { plot: null };
  const size = () => ({ width: parent.clientWidth - 24, height });
  entry.draw = () => {
    entry.plot?.destroy();
    const still = { ...size(), cursor: { show: false } };
    entry.plot = new uPlot({ ...still, ...options() }, data, parent);
  };
  charts.push(entry);
  new ResizeObserver(() => entry.plot?.setSize(size())).observe(parent);
}

const axis = (more) => ({
  stroke: colour("soft"),
  grid: { stroke: colour("rule"), width: 1 },
  ticks: { show: false },
  values: (_plot, splits) => splits.map(short),
  ...more,
});

/** One row of the benchmark: its rate over the runs, a line for each library. */
function history(parent, name, runs) {
  const results = runs.map((run) => run.results.filter((r) => r.name === name));
  const timed = results.flat().filter((r) => r.ms !== undefined);
  const lines = [...new Set(timed.map((r) => library(r.by)))].map((by) => ({
    by,
    rates: results.map((run) => rate(run.find((r) => library(r.by) === by) ?? {}) ?? null),
  }));
  const figure = add(parent, "figure");
  figure.dataset.row = name;
  add(add(figure, "figcaption", name), "span", ` ${results.flat()[0].unit}`);
  const days = (_plot, splits) => splits.map((i) => runs[i]?.date.slice(0, 10));
  const options = () => ({
    scales: {
      x: { time: false, range: [-0.5, runs.length - 0.5] },
      y: { range: (_plot, _low, high) => [0, high * 1.1 || 1] },
    },
    legend: { live: false },
    axes: [axis({ size: 26, splits: [...new Set([0, runs.length - 1])], values: days }), axis({ size: 50 })],
    series: [
      {},
      ...lines.map(({ by, rates }) => ({
        label: `${by} ${short(rates.findLast((value) => value !== null))}`,
        stroke: colour(`s${Math.max(known.indexOf(by), 0)}`),
        width: by === "kiln" ? 2.5 : 1.5,
        points: { show: true, size: 5 },
        spanGaps: true,
      })),
    ],
  });
  chart(figure, 170, options, [runs.map((_, i) => i), ...lines.map(({ rates }) => rates)]);
}

/** Powers of ten around positive values. */
function decades(values) {
  const logs = values.map(Math.log10);
  return [10 ** Math.floor(Math.min(...logs)), 10 ** Math.ceil(Math.max(...logs))];
}

/** What the adapter allows at each number of operations per byte, and where kiln's rows are, numbered as in the table. */
function roofline(parent, { results, roofline: { gflops, gb_per_s, f16_gflops } }) {
  const rows = results.filter((r) => r.by === "kiln" && r.ms !== undefined);
  if (rows.length === 0) return;
  const points = rows.map((r, i) => ({ ...r, number: i + 1, x: r.gflops / r.gb_per_s }));
  const peaks = f16_gflops ? [gflops, f16_gflops] : [gflops];
  const ridges = peaks.map((peak) => peak / gb_per_s);
  const range = {
    x: decades([...points.map((p) => p.x), ...ridges]),
    y: decades([...points.map((p) => p.gflops), ...peaks]),
  };
  const marks = [...points, ...[...ridges, ...range.x].map((x) => ({ x }))].sort((a, b) => a.x - b.x);
  const dots = (f16) => marks.map((m) => ((m.precision === "f16") === f16 ? (m.gflops ?? null) : null));
  const half = points.some((p) => p.precision === "f16");
  const numbers = (plot) => {
    plot.ctx.fillStyle = colour("ink");
    plot.ctx.font = `${11 * devicePixelRatio}px sans-serif`;
    for (const { number, x, gflops: y } of points) {
      const place = [plot.valToPos(x, "x", true) + 8, plot.valToPos(y, "y", true) + 4];
      plot.ctx.fillText(String(number), ...place);
    }
  };
  const roof = (label, dash) => ({ label, stroke: colour("ink"), width: 2, dash, points: { show: false } });
  const scatter = (label, fill) => ({
    label,
    stroke: colour("s0"),
    paths: () => null,
    points: { show: true, size: 8, fill: colour(fill) },
  });
  const options = () => ({
    scales: { x: { time: false, distr: 3, range: range.x }, y: { distr: 3, range: range.y } },
    legend: { live: false },
    hooks: { draw: [numbers] },
    axes: [axis({ label: "operations per byte" }), axis({ label: "GFLOP/s", size: 60 })],
    series: [
      {},
      roof(`copy ${short(gb_per_s)} GB/s, f32 multiply-add ${short(gflops)} GFLOP/s`),
      ...(f16_gflops ? [roof(`f16 ${short(f16_gflops)} GFLOP/s by the maker`, [6, 4])] : []),
      scatter("kiln, f32", "s0"),
      ...(half ? [scatter("kiln, f16", "card")] : []),
    ],
  });
  const card = add(parent, "div", "", "card");
  card.dataset.plot = "roofline";
  const roofs = peaks.map((peak) => marks.map(({ x }) => Math.min(peak, x * gb_per_s)));
  chart(card, 460, options, [marks.map(({ x }) => x), ...roofs, dots(false), ...(half ? [dots(true)] : [])]);
  table(parent, points);
}

function table(parent, points) {
  const body = add(add(parent, "div", "", "scroll"), "table");
  const line = (kind, cells) => {
    const row = add(body, "tr");
    for (const cell of cells) add(row, kind, cell);
  };
  line("th", ["", "row", "operations per byte", "GFLOP/s", "GB/s", "of roof"]);
  for (const { number, name, x, gflops, gb_per_s, roofline: share } of points) {
    const percent = share === undefined ? "" : `${(100 * share).toFixed(1)} %`;
    line("td", [String(number), name, short(x), short(gflops), short(gb_per_s), percent]);
  }
}

for (const { title, facts, software, runs } of JSON.parse(document.getElementById("sections").textContent)) {
  const section = add(document.querySelector("main"), "section");
  add(section, "h2", title);
  for (const fact of facts) add(section, "p", fact, "meta");
  const warning = "Software adapter: these are figures of a processor. They say nothing about a GPU.";
  if (software) add(section, "p", warning, "warning");
  add(section, "h3", "Every row over the runs");
  const grid = add(section, "div", "", "grid");
  const names = new Set(runs.flatMap((run) => run.results.map((r) => r.name)));
  for (const name of names) history(grid, name, runs);
  add(section, "h3", "Roofline of the last run");
  roofline(section, runs.at(-1));
}
function drawAll() {
  for (const { draw } of charts) draw();
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
drawAll();
