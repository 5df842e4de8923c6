const compact = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const plain = new Intl.NumberFormat("en", { maximumFractionDigits: 2 });
const moment = new Intl.DateTimeFormat("en", { dateStyle: "medium", timeStyle: "short" });

export const short = (value: number): string => compact.format(value);
export const number = (value: number | null): string => (value === null ? "–" : plain.format(value));
export const percent = (value: number | null): string =>
  value === null ? "–" : `${(value * 100).toFixed(1)}%`;
export const points = (value: number | null): string =>
  value === null ? "–" : `${value < 0 ? "−" : "+"}${Math.abs(value * 100).toFixed(1)}`;
export const date = (time: number): string => moment.format(time);
export const milliseconds = (value: number): string =>
  value < 1000 ? `${Math.round(value)} ms` : `${(value / 1000).toFixed(1)} s`;
export const dollars = (micro: number): string => `$${(micro / 1e6).toFixed(micro < 10_000 ? 4 : 2)}`;
export const bytes = (value: number): string =>
  value < 1e6 ? `${(value / 1e3).toFixed(0)} kB` : `${(value / 1e6).toFixed(1)} MB`;

/** A hue of 0 to 359 that a name always has: FNV-1a, so that similar names are far apart. */
export function hue(name: string): number {
  let hash = 0x811c9dc5;
  for (let i = 0; i < name.length; i++) hash = Math.imul(hash ^ name.charCodeAt(i), 0x01000193);
  return (Math.imul(hash ^ (hash >>> 15), 0x9e3779b1) >>> 0) % 360;
}
