/** The points of a curve: x is the step, y the loss. */
export type Point = readonly [x: number, y: number];

/** At most `most` points: means of equal stretches. */
export function thin(losses: readonly number[], most: number): Point[] {
  const stretch = Math.max(1, Math.ceil(losses.length / most));
  const points: Point[] = [];
  for (let from = 0; from < losses.length; from += stretch) {
    const part = losses.slice(from, from + stretch);
    const mean = part.reduce((sum, loss) => sum + loss, 0) / part.length;
    points.push([from + (part.length + 1) / 2, mean]);
  }
  return points;
}

/** Exponential means without the pull of the start, as Adam corrects its own (Kingma & Ba 2015). */
export function smooth(losses: readonly number[], memory: number): number[] {
  let sum = 0;
  let weight = 0;
  return losses.map((loss) => {
    sum = memory * sum + (1 - memory) * loss;
    weight = memory * weight + (1 - memory);
    return sum / weight;
  });
}

/** About `wanted` round numbers from `low` to `high`, both included where they are round. */
export function ticks(low: number, high: number, wanted: number): number[] {
  const rough = Math.max(high - low, 1e-9) / wanted;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 5].find((factor) => factor * power >= rough) ?? 10);
  const found: number[] = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++)
    found.push(Number((i * step).toPrecision(12)));
  return found;
}

const namespace = "http://www.w3.org/2000/svg";

function node(tag: string, attributes: Record<string, string | number>, text = ""): SVGElement {
  const element = document.createElementNS(namespace, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, String(value));
  element.textContent = text;
  return element;
}

/** Draws the loss of each step so far into an SVG, as wide as its place; `steps` is where the axis ends. */
export function drawLosses(svg: SVGSVGElement, losses: readonly number[], steps: number): void {
  const { width, height } = svg.getBoundingClientRect();
  if (width === 0) return;
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const [left, right, top, bottom] = [34, width - 8, 8, height - 24];
  const shown = thin(losses, 400);
  const values = shown.map(([, y]) => y);
  const high = values.length > 0 ? Math.ceil(Math.max(...values) * 2) / 2 : 7;
  const low = values.length > 0 ? Math.max(0, Math.floor(Math.min(...values) * 2) / 2) : 0;
  const x = (step: number) => left + ((right - left) * step) / Math.max(steps, 1);
  const y = (loss: number) => bottom - ((bottom - top) * (loss - low)) / Math.max(high - low, 0.5);
  const line = (points: readonly Point[], name: string) =>
    node("polyline", {
      class: name,
      points: points.map(([a, b]) => `${x(a).toFixed(1)},${y(b).toFixed(1)}`).join(" "),
    });
  const parts: SVGElement[] = [];
  for (const value of ticks(low, high, 4)) {
    parts.push(node("line", { class: "grid", x1: left, x2: right, y1: y(value), y2: y(value) }));
    parts.push(node("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, String(value)));
  }
  for (const value of ticks(0, steps, width > 500 ? 8 : 4).filter((step) => step > 0)) {
    const isLast = x(value) > right - 20;
    parts.push(
      node(
        "text",
        { x: isLast ? right : x(value), y: height - 6, "text-anchor": isLast ? "end" : "middle" },
        String(value),
      ),
    );
  }
  // The more points, the longer the memory: few would only lag.
  const smoothed = smooth(values, values.length / (values.length + 60)).map(
    (value, i): Point => [shown[i][0], value],
  );
  svg.replaceChildren(...parts, line(shown, "each"), line(smoothed, "mean"));
  const told =
    values.length > 1
      ? `Loss from ${losses[0].toFixed(2)} to ${losses.at(-1)!.toFixed(2)} in ${losses.length} steps`
      : "No loss yet";
  svg.setAttribute("aria-label", told);
}
