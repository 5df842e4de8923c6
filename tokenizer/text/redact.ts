import { createRequire } from "node:module";

/** Finds what tells who somebody is or opens a door: secrets, addresses, numbers. All patterns take linear time. */

/** A place in a text. */
export interface Found {
  start: number;
  end: number;
}

export const privateKinds = ["secret", "url", "email", "iban", "card", "phone"] as const;
export type PrivateKind = (typeof privateKinds)[number];

const secret = new RegExp(
  [
    /(?<![\w-])sk-(?=[\w-]*\d)[\w-]{20,}/,
    /(?<!\w)hf_[A-Za-z0-9]{20,}/,
    /(?<!\w)gh[pousr]_[A-Za-z0-9]{20,}/,
    /(?<!\w)github_pat_\w{20,}/,
    /(?<!\w)AKIA[0-9A-Z]{16}(?!\w)/,
    /(?<!\w)xox[a-z]-[A-Za-z0-9-]{10,}/,
    /(?<![\w-])eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{8,}/,
    /-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----[\s\S]{0,20000}?-----END [A-Z ]{0,30}PRIVATE KEY-----/,
  ]
    .map(({ source }) => source)
    .join("|"),
  "g",
);

const domains =
  "com|org|net|edu|gov|mil|int|info|biz|io|dev|app|ai|co|me|tv|xyz|online|site|tech|eu|uk|de|fr|es|it|nl|be|ch|at|pt|pl|cz|se|no|dk|fi|ie|gr|hu|ro|ru|ua|tr|us|ca|mx|br|ar|cl|au|nz|jp|cn|kr|tw|hk|sg|in|il|za";
/** Where a URL ends: white space, quotes, brackets, and marks of scripts that write no space after it. */
const urlEnd = "\\s<>\"'`\\]}|\\\\^\\ufdd0\\ufdd1。、，！？；：）」』】》";
const url = new RegExp(
  `(?<![@\\w])(?:(?:https?|ftp)://[^${urlEnd}]+|www\\.[^${urlEnd}]+)|(?<![\\p{L}\\p{N}@._-])(?:[\\p{L}\\p{N}-]{1,63}\\.){1,8}(?:${domains})/[^${urlEnd}]*`,
  "giu",
);
const afterUrl = /[.,;:!?'"»…*،؛؟।]$/;

function urls(text: string): Found[] {
  if (!/:\/\/|www\.|\//i.test(text)) return [];
  return [...text.matchAll(url)].flatMap((match) => {
    const start = match.index;
    let end = start + match[0].length;
    let open = 0;
    for (const char of match[0]) open += char === "(" ? 1 : char === ")" ? -1 : 0;
    for (; end > start; end--) {
      const last = text[end - 1];
      if (last === ")" && open < 0) open++;
      else if (!afterUrl.test(last)) break;
    }
    return /^(?:\w+:\/\/|www\.?)$/i.test(text.slice(start, end)) ? [] : [{ start, end }];
  });
}

/** Scripts that write no spaces between words: what is beside an address is no part of it. */
const unspaced = "(?![\\p{Script=Han}\\p{Script=Hiragana}\\p{Script=Katakana}\\p{Script=Thai}ー])";
const name = `${unspaced}[\\p{L}\\p{M}\\p{N}_%+]`;
const label = `(?:${unspaced}[\\p{L}\\p{M}\\p{N}-]){1,63}`;
const email = new RegExp(
  `(?<!${name}|@)${name}(?:${name}|[.'-]){0,63}@(?:${label}\\.){1,8}(?=\\p{L}[\\p{L}\\p{M}\\p{N}])${label}(?<!-)(?!@|${name})`,
  "gu",
);
const dot = "(?: ?\\[dot\\] ?| ?\\(dot\\) ?| dot |\\.)";
const spoken = new RegExp(
  `(?<![\\w.+-])\\w[\\w.+-]{0,63}(?: ?\\[at\\] ?| ?\\(at\\) ?|(?<dotted> at (?!(?:the|a|an|my|your|his|her|its|our|their|this|that) )))[\\w-]{1,63}(?:${dot}[a-z0-9][\\w-]{0,62}){1,8}(?![\\w-])`,
  "gi",
);

function emails(text: string): Found[] {
  const found = text.includes("@") ? [...text.matchAll(email)] : [];
  if (/\bat\b/i.test(text))
    // "at" without brackets needs a spoken dot before a top-level domain: "we met at example.com" names no person.
    for (const match of text.matchAll(spoken))
      if (match.groups?.dotted === undefined || / dot [a-z]{2,}$/i.test(match[0])) found.push(match);
  return found.map((match) => ({ start: match.index, end: match.index + match[0].length }));
}

/** How many characters an IBAN has, by country (SWIFT's registry). */
const ibanLengths = new Map(
  (
    "AD24AE23AL28AT20AZ28BA20BE16BG22BH22BR29BY28CH21CR22CY28CZ24DE22DK18DO28EE20EG29ES24FI18FO18FR27GB22GE22GI23GL18GR27" +
    "GT28HR21HU28IE22IL23IQ23IS26IT27JO30KW30KZ20LB28LC32LI21LT20LU20LV21LY25MC27MD24ME22MK19MR27MT31MU30NL18NO15PK24PL28" +
    "PS29PT25QA29RO24RS22SA24SC31SE24SI19SK24SM27ST25SV28TL23TN24TR26UA29VA22VG24XK20"
  )
    .match(/\D+\d+/g)!
    .map((entry) => [entry.slice(0, 2), Number(entry.slice(2))]),
);

function ibans(text: string): Found[] {
  return [...text.matchAll(/(?<![\p{L}\p{N}])([A-Z]{2})\d{2}(?: ?[A-Z0-9]){11,30}/gu)].flatMap((match) => {
    const length = ibanLengths.get(match[1]) ?? Number.POSITIVE_INFINITY;
    let end = match.index;
    let account = "";
    for (; account.length < length && end < match.index + match[0].length; end++)
      if (text[end] !== " ") account += text[end];
    if (account.length < length || /[\p{L}\p{N}]/u.test(text[end] ?? "")) return [];
    const digits = (account.slice(4) + account.slice(0, 4)).replace(
      /[A-Z]/g,
      (char) => `${char.charCodeAt(0) - 55}`,
    );
    return BigInt(digits) % 97n === 1n ? [{ start: match.index, end }] : [];
  });
}

/** Luhn's check digit (ISO/IEC 7812-1). */
function isCard(digits: string): boolean {
  let sum = 0;
  for (let i = 0; i < digits.length; i++) {
    const digit = Number(digits[digits.length - 1 - i]);
    sum += i % 2 === 0 ? digit : digit > 4 ? 2 * digit - 9 : 2 * digit;
  }
  return sum % 10 === 0;
}

function cards(text: string): Found[] {
  return [...text.matchAll(/(?<![\d.,-]|\d )[3-6](?:[ -]?\d){12,18}(?![\d-]|[ .,]\d)/g)]
    .filter(([match]) => isCard(match.replace(/\D/g, "")))
    .map((match) => ({ start: match.index, end: match.index + match[0].length }));
}

type FindPhones = typeof import("libphonenumber-js/min")["findPhoneNumbersInText"];
let findPhones: FindPhones | undefined;

/** Seven digits with little between them. */
const phoneSign = /(?:\p{Nd}[^\p{L}\p{Nd}]{0,3}){7}/u;

/** By libphonenumber, which knows the numbers of each country: dates, prices and the like are none. */
function phones(text: string, region: string): Found[] {
  const found: Found[] = [];
  let offset = 0;
  for (const line of text.split("\n")) {
    if (phoneSign.test(line)) {
      // Loaded when needed: it takes longer than everything else of this folder.
      findPhones ??= (
        createRequire(import.meta.url)("libphonenumber-js/min") as { findPhoneNumbersInText: FindPhones }
      ).findPhoneNumbersInText;
      // 00 is + in most countries. What stands for it keeps its length.
      const plus = line.replace(/(?<![\p{L}\p{N}+]|\d[ ()./-])00(?=[1-9])/gu, " +");
      for (const { startsAt, endsAt } of findPhones(plus, region as "US")) {
        const number = plus.slice(startsAt, endsAt);
        const isWrapped = number.startsWith("(") && !number.includes(")");
        const start = startsAt + (isWrapped ? 1 : plus[startsAt] === line[startsAt] ? 0 : -1);
        found.push({ start: offset + start, end: offset + endsAt });
      }
    }
    offset += line.length + 1;
  }
  return found;
}

/** Places of a kind in a text, in order, none inside another. `region` (ISO 3166) is that of phone numbers without a country. */
export function findPrivate(kind: PrivateKind, text: string, region: string): Found[] {
  const places = () => {
    if (kind === "secret")
      return [...text.matchAll(secret)].map((match) => ({
        start: match.index,
        end: match.index + match[0].length,
      }));
    if (kind === "url") return urls(text);
    if (kind === "email") return emails(text);
    if (!/\p{Nd}/u.test(text)) return [];
    return kind === "iban" ? ibans(text) : kind === "card" ? cards(text) : phones(text, region);
  };
  let last = 0;
  return places()
    .sort((a, b) => a.start - b.start)
    .filter(({ start, end }) => {
      if (start < last) return false;
      last = end;
      return true;
    });
}
