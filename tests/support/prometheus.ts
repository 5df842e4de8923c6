/** A family of samples with one TYPE line. */
export interface Family {
  readonly type: string;
  readonly help: string;
  readonly samples: {
    readonly name: string;
    readonly labels: Record<string, string>;
    readonly value: number;
  }[];
}

const NAME = "[a-zA-Z_:][a-zA-Z0-9_:]*";
const META = new RegExp(`^# (HELP|TYPE) (${NAME}) (.*)$`);
const SAMPLE = new RegExp(`^(${NAME})(?:\\{(.*)\\})? (\\S+)$`);
const LABEL = /([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\[\\n"])*)"(,|$)/y;

/** Parses Prometheus' text format 0.0.4, strictly. @throws for what a scraper would refuse or misread. */
export function parsePrometheus(text: string): Map<string, Family> {
  if (!text.endsWith("\n")) throw new Error("the last line must end with a line feed");
  const families = new Map<string, { type: string; help: string; samples: Family["samples"] }>();
  const series = new Set<string>();
  let current = "";
  for (const line of text.split("\n").filter((one) => one !== "")) {
    const meta = META.exec(line);
    if (meta !== null) {
      const [, kind, name, rest] = meta;
      const family = families.get(name!) ?? { type: "", help: "", samples: [] };
      const known = kind === "HELP" ? family.help : family.type;
      if (known !== "" || family.samples.length > 0) throw new Error(`${name} has a second or late ${kind}`);
      families.set(name!, { ...family, [kind!.toLowerCase()]: rest });
      current = name!;
      continue;
    }
    const sample = SAMPLE.exec(line);
    if (sample === null) throw new Error(`no sample: ${line}`);
    const [, name, inBraces, number] = sample;
    const labels = parseLabels(inBraces ?? "");
    const family = families.get(current);
    const suffixes = family?.type === "histogram" ? ["_bucket", "_sum", "_count"] : [""];
    if (family === undefined || !suffixes.some((suffix) => name === current + suffix))
      throw new Error(`${name} stands under ${current}`);
    const key = JSON.stringify([name, Object.entries(labels).sort()]);
    if (series.has(key)) throw new Error(`twice: ${key}`);
    series.add(key);
    const value = number === "+Inf" ? Infinity : Number(number);
    if (Number.isNaN(value) && !/^nan$/i.test(number!)) throw new Error(`no number: ${line}`);
    family.samples.push({ name: name!, labels, value });
  }
  for (const [name, family] of families) if (family.type === "histogram") checkHistogram(name, family);
  return families;
}

function parseLabels(text: string): Record<string, string> {
  const labels: Record<string, string> = {};
  for (LABEL.lastIndex = 0; LABEL.lastIndex < text.length; ) {
    const match = LABEL.exec(text);
    if (match === null || Object.hasOwn(labels, match[1]!)) throw new Error(`no labels: ${text}`);
    labels[match[1]!] = match[2]!.replace(/\\(.)/g, (_, char) => (char === "n" ? "\n" : char));
  }
  return labels;
}

/** Buckets grow with their bounds, and the one without bound holds as many as `_count` says. */
function checkHistogram(name: string, { samples }: Family): void {
  const groups = new Map<string, Family["samples"]>();
  for (const sample of samples) {
    const { le: _, ...rest } = sample.labels;
    const key = JSON.stringify(Object.entries(rest).sort());
    groups.set(key, [...(groups.get(key) ?? []), sample]);
  }
  for (const [key, group] of groups) {
    const buckets = group.filter((one) => one.name === `${name}_bucket`);
    const bounds = buckets.map(({ labels }) => (labels.le === "+Inf" ? Infinity : Number(labels.le)));
    const counts = buckets.map(({ value }) => value);
    const rises = (list: number[], strictly: boolean) =>
      list.every((x, i) => i === 0 || x > list[i - 1]! || (!strictly && x === list[i - 1]));
    const count = group.find((one) => one.name === `${name}_count`)?.value;
    const isSound = rises(bounds, true) && rises(counts, false) && bounds.at(-1) === Infinity;
    if (!isSound || counts.at(-1) !== count || !group.some((one) => one.name === `${name}_sum`))
      throw new Error(`${name}${key} is no histogram`);
  }
}

/** The value of the one series with these labels; NaN if there is none. */
export function seriesValue(
  families: Map<string, Family>,
  name: string,
  labels: Record<string, string> = {},
): number {
  const family = families.get(name) ?? families.get(name.replace(/_(bucket|sum|count)$/, ""));
  const found = (family?.samples ?? []).filter(
    (sample) =>
      sample.name === name &&
      Object.entries(labels).every(([label, value]) => sample.labels[label] === value),
  );
  if (found.length > 1) throw new Error(`${name} ${JSON.stringify(labels)} is ${found.length} series`);
  return found[0]?.value ?? Number.NaN;
}
