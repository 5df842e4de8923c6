/** Attributes of an SVG or HTML element; numbers are written with two decimals. */
export type Attributes = Record<string, string | number>;

/** Text that may stand anywhere in a page. */
export function escapeText(text: string): string {
  return text.replace(/[&<>"]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[c]!);
}

/** An element with children that are markup already. */
export function element(name: string, attributes: Attributes = {}, ...children: string[]): string {
  const pairs = Object.entries(attributes).map(([key, value]) => {
    const text = typeof value === "number" ? String(Math.round(value * 100) / 100) : escapeText(value);
    return ` ${key}="${text}"`;
  });
  const open = `<${name}${pairs.join("")}`;
  return children.length > 0 ? `${open}>${children.join("")}</${name}>` : `${open}/>`;
}

/** A plain text element. */
export function label(x: number, y: number, text: string, attributes: Attributes = {}): string {
  return element("text", { x, y, ...attributes }, escapeText(text));
}

/** A line through points; the first begins it. */
export function polyline(points: readonly (readonly [number, number])[], attributes: Attributes): string {
  const text = points.map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`).join(" ");
  return element("polyline", { points: text, fill: "none", ...attributes });
}

/** Maps [from, to] to [low, high] linearly. */
export function scale(from: number, to: number, low: number, high: number): (value: number) => number {
  const slope = to === from ? 0 : (high - low) / (to - from);
  return (value) => low + (value - from) * slope;
}

/** Three digits, with k, M for thousands, millions. */
export function short(value: number): string {
  if (value >= 1e6) return `${short(value / 1e6)}M`;
  if (value >= 1e4) return `${short(value / 1e3)}k`;
  return value >= 100 ? value.toFixed(0) : String(Number(value.toPrecision(3)));
}

/** The smallest of 1, 2, 5 times a power of ten that is at least `value`. */
export function roundUp(value: number): number {
  const power = 10 ** Math.floor(Math.log10(value));
  return power * [1, 2, 5, 10].find((m) => m * power >= value * 0.999999)!;
}

/** Moves heights apart to at least `gap`, in their order, within [top, bottom] where they fit. */
export function spread(heights: readonly number[], gap: number, top: number, bottom: number): number[] {
  const order = heights.map((_, i) => i).sort((a, b) => heights[a] - heights[b]);
  const placed = [...heights];
  let last = top - gap;
  for (const i of order) {
    placed[i] = Math.max(placed[i], last + gap);
    last = placed[i];
  }
  let next = bottom + gap;
  for (const i of order.reverse()) {
    placed[i] = Math.min(placed[i], next - gap);
    next = placed[i];
  }
  return placed;
}

export interface Box {
  x: number;
  y: number;
  width: number;
  height: number;
}

/** Whether two boxes share any place. */
export function overlap(a: Box, b: Box): boolean {
  return a.x < b.x + b.width && b.x < a.x + a.width && a.y < b.y + b.height && b.y < a.y + a.height;
}

/** A line from a point to the nearest end of its label, as a row of small boxes: empty where they are close anyway. */
function leaderBoxes([x, y]: readonly [number, number], to: Box): Box[] {
  const [endX, endY] = leaderEnd([x, y], to);
  const steps = Math.floor(Math.hypot(endX - x, endY - y) / 6);
  // The first ones lie on the point itself.
  return Array.from({ length: Math.max(steps - 2, 0) }, (_, i) => {
    const t = (i + 2) / steps;
    return { x: x + t * (endX - x) - 1, y: y + t * (endY - y) - 1, width: 2, height: 2 };
  });
}

/** Where the line from a point meets its label. */
export function leaderEnd([x]: readonly [number, number], box: Box): [number, number] {
  return [Math.min(Math.max(x, box.x), box.x + box.width), box.y + box.height / 2];
}

/**
 * A free place for a label of this size near a point: the nearest of many where neither it nor the line to it meets
 * anything taken, inside the plot; where there is none, the place that disturbs least. The place and its line are taken
 * from then on.
 */
export function placeLabel(
  point: readonly [number, number],
  [width, height]: readonly [number, number],
  inside: Box,
  taken: Box[],
): Box {
  const [x, y] = point;
  let best: Box = { x, y, width, height };
  let fewest = Number.POSITIVE_INFINITY;
  for (let distance = 9; distance < 300 && fewest > 0; distance += 8) {
    for (let turn = 0; turn < 16; turn++) {
      const angle = (turn * Math.PI) / 8 - Math.PI / 8;
      const [dx, dy] = [Math.cos(angle), Math.sin(angle)];
      // A label to the left ends near the point; one to the right begins there.
      const left = x + dx * distance + (dx < -0.3 ? -width : dx > 0.3 ? 0 : -width / 2);
      const box = { x: left, y: y + dy * distance - height / 2, width, height };
      const fits =
        box.x >= inside.x &&
        box.y >= inside.y &&
        box.x + width <= inside.x + inside.width &&
        box.y + height <= inside.y + inside.height;
      if (!fits) continue;
      const line = leaderBoxes(point, box);
      const hidden = taken.filter((other) => overlap(box, other)).length;
      const crossed = taken.filter((other) => line.some((part) => overlap(part, other))).length;
      // A line may cross another; a label that lies on something cannot be read.
      const meets = 20 * hidden + crossed + (crossed > 0 ? distance / 40 : 0);
      if (meets >= fewest) continue;
      fewest = meets;
      best = box;
      if (meets === 0) break;
    }
  }
  taken.push(best, ...leaderBoxes(point, best));
  return best;
}
