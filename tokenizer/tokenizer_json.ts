import { isObject } from "../core/platform/files.ts";

/** A token outside the model's own vocabulary, as `tokenizer.json` lists it. */
export interface AddedTokenJson {
  id: number;
  content: string;
  single_word: boolean;
  lstrip: boolean;
  rstrip: boolean;
  normalized: boolean;
  special: boolean;
}

/** One part of the pipeline (normalizer, pre-tokenizer, post-processor, decoder): a type and its settings. */
export interface ComponentJson {
  type: string;
  [setting: string]: unknown;
}

/** The content of a Hugging Face `tokenizer.json`, format version 1.0, as far as kiln reads it. */
export interface TokenizerJson {
  version: string;
  truncation: unknown;
  padding: unknown;
  added_tokens: AddedTokenJson[];
  normalizer: ComponentJson | null;
  pre_tokenizer: ComponentJson | null;
  post_processor: ComponentJson | null;
  decoder: ComponentJson | null;
  model: { type: string; vocab: Record<string, number> | [string, number][]; [setting: string]: unknown };
}

/** A `tokenizer.json` of these parts alone: it adds no tokens and changes no text. */
export const jsonOf = (parts: Pick<TokenizerJson, "model"> & Partial<TokenizerJson>): TokenizerJson => ({
  version: "1.0",
  truncation: null,
  padding: null,
  added_tokens: [],
  normalizer: null,
  pre_tokenizer: null,
  post_processor: null,
  decoder: null,
  ...parts,
});

/** The settings of a BPE whose every option is off. */
export const plainBpe = {
  type: "BPE",
  dropout: null,
  unk_token: null as string | null,
  continuing_subword_prefix: null,
  end_of_word_suffix: null,
  fuse_unk: false,
  byte_fallback: false,
  ignore_merges: false,
};

/** A token that is matched exactly, wherever it occurs. */
export function addedToken(id: number, content: string, special = true): AddedTokenJson {
  return { id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special };
}

/** The text of a token that a config gives as itself or in an object; null for neither. */
export function contentOf(token: unknown): string | null {
  const content = isObject(token) ? token.content : token;
  return typeof content === "string" ? content : null;
}

/** The parts of a component: its members for a `Sequence`, else itself; empty for null. */
export function componentList(component: ComponentJson | null | undefined): ComponentJson[] {
  if (component === null || component === undefined) return [];
  if (component.type !== "Sequence") return [component];
  const members =
    component.decoders ?? component.processors ?? component.pretokenizers ?? component.normalizers;
  return Array.isArray(members) ? members.flatMap((member: ComponentJson) => componentList(member)) : [];
}
