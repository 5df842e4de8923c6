import { repairMojibake } from "./mojibake.ts";
import { composed, soundLines, tidied, withoutInvisible } from "./normalise.ts";
import { findPrivate, type PrivateKind, privateKinds } from "./redact.ts";

/** What becomes of something private: `[URL]` and the like, nothing, nothing of the whole text, or what it was. */
export const cleanModes = ["redact", "remove", "drop", "keep"] as const;
export type CleanMode = (typeof cleanModes)[number];

export interface CleanOptions {
  /** Default of every kind: `redact`. `drop` leaves the text as it is and sets `drop`. */
  modes?: Partial<Record<PrivateKind, CleanMode>> | undefined;
  /** The country (ISO 3166) of phone numbers that name none; default US. */
  region?: string | undefined;
}

/** What one rule did to a text: how often, and its first case. */
export interface Change {
  rule: "mojibake" | "mojibake_left" | "characters" | "spacing" | PrivateKind;
  count: number;
  from: string;
  to: string;
}

export interface CleanedText {
  text: string;
  changes: Change[];
  /** The first kind of private data in the text whose mode is `drop`. */
  drop?: PrivateKind;
}

/** Fenced blocks (one that is not closed reaches to the end) and inline code. */
const code =
  /(?<=^|\n) {0,3}(?:(`{3,})[^`\n]*|(~{3,})[^\n]*)(?:\n[\s\S]*?)??(?:\n {0,3}\1\2[`~]*[ \t]*(?=\n|$)|$)|(?<!`)(`+)(?!`)[^\n]*?[^`\n]\3(?!`)/g;
/** Noncharacters: neither is left in a text once what nobody sees is taken away. */
const HELD = "\ufdd0";
const GONE = "\ufdd1";

class Cleaning {
  readonly changes = new Map<string, Change>();
  drop: PrivateKind | undefined;
  readonly #modes: Partial<Record<PrivateKind, CleanMode>>;
  readonly #region: string;

  constructor({ modes = {}, region = "US" }: CleanOptions) {
    this.#modes = modes;
    this.#region = region;
  }

  once(given: string): string {
    const lines = soundLines(given);
    if (lines !== given) this.#note("characters", given, lines);
    const { text, repairs, left } = repairMojibake(lines);
    if (repairs > 0) this.#note("mojibake", lines, text, repairs);
    if (left.length > 0)
      this.changes.set("mojibake_left", {
        rule: "mojibake_left",
        count: left.length,
        from: left[0],
        to: left[0],
      });
    const visible = withoutInvisible(composed(text));
    if (visible !== text) this.#note("characters", text, visible);
    return this.#outsideCode(this.#redacted("secret", visible));
  }

  #note(rule: Change["rule"], from: string, to: string, count = 1): void {
    const known = this.changes.get(rule);
    if (known) known.count += count;
    else this.changes.set(rule, { rule, count, ...firstDifference(from, to) });
  }

  #outsideCode(text: string): string {
    const held: string[] = [];
    let current = text.replace(code, (part) => {
      held.push(part);
      return HELD;
    });
    for (const kind of privateKinds) if (kind !== "secret") current = this.#redacted(kind, current);
    const tidy = tidied(current);
    if (tidy !== current) this.#note("spacing", current, tidy);
    let next = 0;
    return tidy.replaceAll(HELD, () => held[next++]);
  }

  #redacted(kind: PrivateKind, text: string): string {
    const mode = this.#modes[kind] ?? "redact";
    if (mode === "keep") return text;
    const found = findPrivate(kind, text, this.#region);
    if (found.length === 0) return text;
    if (mode === "drop") {
      this.drop ??= kind;
      return text;
    }
    const to = mode === "redact" ? `[${kind.toUpperCase()}]` : GONE;
    let result = "";
    let last = 0;
    for (const { start, end } of found) {
      result += text.slice(last, start) + to;
      last = end;
      const known = this.changes.get(kind);
      if (known) known.count++;
      else
        this.changes.set(kind, {
          rule: kind,
          count: 1,
          from: text.slice(start, end),
          to: mode === "redact" ? to : "",
        });
    }
    result += text.slice(last);
    return mode === "redact" ? result : withoutGaps(result);
  }
}

/** Takes the brackets around something removed away, and the space before a mark that follows it. */
function withoutGaps(text: string): string {
  return text
    .replace(/\[\ufdd1\]\(\ufdd1\)|\(\s*\ufdd1\s*\)|\[\s*\ufdd1\s*\]|<\s*\ufdd1\s*>/g, GONE)
    .replace(/ *\ufdd1 *(?=[.,;:!?])/g, "")
    .replaceAll(GONE, "");
}

/** Where two texts first differ, with a little of what follows. */
function firstDifference(from: string, to: string): { from: string; to: string } {
  let at = 0;
  while (at < from.length && from[at] === to[at]) at++;
  const start = Math.max(0, at - 4);
  const shown = (text: string) => text.slice(start, at + 12).replace(/\p{Surrogate}/gu, "\ufffd");
  return { from: shown(from), to: shown(to) };
}

/** Each pass makes a text shorter or ends; what takes more passes than this was made for it. */
const mostPasses = 50;

/**
 * Cleans a text: line ends, mojibake, characters, secrets and then, outside of code, URLs, e-mail addresses, IBANs, cards, phone
 * numbers and spacing, in this order, again until nothing changes: cleaning a clean text changes nothing. Never throws.
 */
export function cleanText(text: string, options: CleanOptions = {}): CleanedText {
  const cleaning = new Cleaning(options);
  let current = text;
  for (let pass = 0; pass < mostPasses; pass++) {
    const next = cleaning.once(current);
    if (next === current) break;
    current = next;
  }
  const { changes, drop } = cleaning;
  return { text: current, changes: [...changes.values()], ...(drop && { drop }) };
}
