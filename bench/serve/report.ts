import type { Load, Percentiles, Summary } from "./load.ts";

export const loadName = (load: Load) =>
  "rate" in load ? `${load.rate} req/s` : `${load.concurrency} at once`;

const shown = (value: number) =>
  Number.isNaN(value)
    ? "-"
    : value >= 100
      ? value.toFixed(0)
      : value >= 10
        ? value.toFixed(1)
        : value.toFixed(2);
const three = ({ p50, p95, p99 }: Percentiles) => [p50, p95, p99].map(shown).join(" / ");

/** A line for each load; times in milliseconds as p50 / p95 / p99. */
export function renderTable(summaries: readonly Summary[]): string {
  const head = ["load", "done", "failed", "req/s", "tok/s", "TTFT ms", "ITL ms", "end to end ms", "goodput"];
  const rows = summaries.map((one) => [
    loadName(one.load),
    ...[String(one.completed), String(one.failed)],
    ...[shown(one.requestsPerSecond), shown(one.outputTokensPerSecond)],
    ...[three(one.ttft), three(one.itl), three(one.e2e)],
    one.goodput === null ? "-" : shown(one.goodput),
  ]);
  const widths = head.map((title, i) => Math.max(title.length, ...rows.map((row) => row[i].length)));
  const line = (cells: readonly string[]) =>
    cells.map((cell, i) => (i === 0 ? cell.padEnd(widths[i]) : cell.padStart(widths[i]))).join("  ");
  return `${[head, ...rows].map(line).join("\n")}\n`;
}

const [WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM] = [720, 400, 70, 150, 30, 50];
const LINES = [
  ["TTFT p50", "#1f77b4", "", ({ ttft }: Summary) => ttft.p50],
  ["TTFT p99", "#1f77b4", "6 4", ({ ttft }: Summary) => ttft.p99],
  ["end to end p50", "#d62728", "", ({ e2e }: Summary) => e2e.p50],
  ["end to end p99", "#d62728", "6 4", ({ e2e }: Summary) => e2e.p99],
] as const;

/** Latency against the rate that was reached, in a picture that needs nothing else. */
export function renderSvg(summaries: readonly Summary[], title: string): string {
  const points = summaries.filter(({ completed }) => completed > 0);
  const sorted = [...points].sort((a, b) => a.requestsPerSecond - b.requestsPerSecond);
  const most = {
    x: Math.max(1e-9, ...sorted.map((one) => one.requestsPerSecond)),
    y: Math.max(1e-9, ...sorted.flatMap((one) => LINES.map(([, , , of]) => of(one)))),
  };
  const x = (value: number) => LEFT + (value / most.x) * (WIDTH - LEFT - RIGHT);
  const y = (value: number) => HEIGHT - BOTTOM - (value / most.y) * (HEIGHT - TOP - BOTTOM);
  const text = (at: readonly number[], content: string, anchor = "middle") =>
    `<text x="${at[0].toFixed(1)}" y="${at[1].toFixed(1)}" text-anchor="${anchor}">${escaped(content)}</text>`;
  const ticks = [0, 0.25, 0.5, 0.75, 1].flatMap((share) => [
    text([x(share * most.x), HEIGHT - BOTTOM + 18], shown(share * most.x)),
    text([LEFT - 8, y(share * most.y) + 4], shown(share * most.y), "end"),
    `<path d="M${LEFT} ${y(share * most.y).toFixed(1)}H${WIDTH - RIGHT}" stroke="#ddd"/>`,
  ]);
  const lines = LINES.flatMap(([name, colour, dashes, of], i) => {
    const places = sorted.map((one) => `${x(one.requestsPerSecond).toFixed(1)},${y(of(one)).toFixed(1)}`);
    const style = `fill="none" stroke="${colour}" stroke-width="2" stroke-dasharray="${dashes}"`;
    const key = TOP + 20 * i;
    return [
      `<polyline points="${places.join(" ")}" ${style}/>`,
      ...places.map(
        (place) => `<circle cx="${place.split(",")[0]}" cy="${place.split(",")[1]}" r="3" fill="${colour}"/>`,
      ),
      `<path d="M${WIDTH - RIGHT + 10} ${key}h24" ${style}/>`,
      text([WIDTH - RIGHT + 40, key + 4], name, "start"),
    ];
  });
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${HEIGHT}" font-family="sans-serif" font-size="12">`,
    `<rect width="${WIDTH}" height="${HEIGHT}" fill="#fff"/>`,
    text([(LEFT + WIDTH - RIGHT) / 2, 18], title),
    ...ticks,
    ...lines,
    text([(LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12], "requests answered a second"),
    `<text transform="translate(16 ${HEIGHT / 2}) rotate(-90)" text-anchor="middle">milliseconds</text>`,
    "</svg>\n",
  ].join("\n");
}

const escaped = (text: string) => text.replace(/[<>&"]/g, (char) => `&#${char.charCodeAt(0)};`);
