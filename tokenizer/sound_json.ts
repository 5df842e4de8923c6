import { type ComponentJson, componentList, type TokenizerJson } from "./tokenizer_json.ts";

/**
 * What the library accepts in a `tokenizer.json` and then cannot run, or null: it would end the whole process in the
 * middle of a text, where nothing can be caught. Found by the mutants of tests/mutations.slow.test.ts.
 */
export function unsoundPart(json: TokenizerJson): string | null {
  const templates = componentList(json.post_processor).filter(({ type }) => type === "TemplateProcessing");
  return templates.map(templateFault).find((fault) => fault !== null) ?? null;
}

type Piece = { SpecialToken?: { id: string }; Sequence?: { id: string } };

/** A template may only name tokens that it lists, and in `single` the one text. */
function templateFault({ single, pair, special_tokens }: ComponentJson): string | null {
  const tokens = (special_tokens ?? {}) as Record<string, { ids?: unknown[]; tokens?: unknown[] }>;
  const named = [single, pair].flatMap((pieces) => (pieces ?? []) as Piece[]);
  const absent = named.find(({ SpecialToken: token }) => token && !Object.hasOwn(tokens, token.id));
  if (absent)
    return `its template names ${JSON.stringify(absent.SpecialToken!.id)}, which its special_tokens lack`;
  const second = ((single ?? []) as Piece[]).some(({ Sequence: text }) => text && text.id !== "A");
  if (second) return "its template for one text has a second one";
  const uneven = Object.keys(tokens).find((name) => tokens[name].ids?.length !== tokens[name].tokens?.length);
  return uneven === undefined ? null : `its template has other ids than tokens for ${JSON.stringify(uneven)}`;
}
