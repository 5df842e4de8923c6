import type { HLJSApi, LanguageFn } from "highlight.js";

/** Code above this is shown plain: colouring it would hold the page up. */
const longest = 30_000;
type Load = () => Promise<{ default: LanguageFn }>;
const more: Record<string, Load> = {
  c: () => import("highlight.js/lib/languages/c"),
  cpp: () => import("highlight.js/lib/languages/cpp"),
  css: () => import("highlight.js/lib/languages/css"),
  diff: () => import("highlight.js/lib/languages/diff"),
  go: () => import("highlight.js/lib/languages/go"),
  java: () => import("highlight.js/lib/languages/java"),
  rust: () => import("highlight.js/lib/languages/rust"),
  sql: () => import("highlight.js/lib/languages/sql"),
  xml: () => import("highlight.js/lib/languages/xml"),
  yaml: () => import("highlight.js/lib/languages/yaml"),
};
const aliases: Record<string, string> = {
  ...{ js: "typescript", javascript: "typescript", ts: "typescript", tsx: "typescript", jsx: "typescript" },
  ...{ py: "python", sh: "bash", shell: "bash", zsh: "bash", html: "xml", svg: "xml", yml: "yaml" },
  ...{ "c++": "cpp", h: "c", rs: "rust", golang: "go", jsonc: "json", patch: "diff" },
};

let core: Promise<HLJSApi> | null = null;

/** HTML of code with its parts in spans, or null where the language is not known. Loads what it needs, once. */
export async function highlight(code: string, language: string): Promise<string | null> {
  const name = aliases[language] ?? language;
  if (code.length > longest) return null;
  core ??= import("./languages.ts").then(({ start }) => start());
  const hljs = await core;
  if (!hljs.getLanguage(name)) {
    if (!Object.hasOwn(more, name)) return null;
    hljs.registerLanguage(name, (await more[name]()).default);
  }
  return hljs.highlight(code, { language: name, ignoreIllegals: true }).value;
}
