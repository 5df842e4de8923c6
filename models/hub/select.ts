import { KilnError } from "../../core/errors.ts";

/** Configuration, tokenizer, and what a person should read before using the model. */
const described = new RegExp(
  [
    "(config|generation_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab|chat_template)\\.json",
    "(adapter_config|preprocessor_config|modules|sentence_bert_config|config_sentence_transformers)\\.json",
    "(vocab|merges)\\.txt",
    "chat_template\\.jinja",
    "\\d+_\\w+/config\\.json",
    "(README|LICEN[CS]E|NOTICE)[^/]*",
  ]
    .map((pattern) => `^${pattern}$`)
    .join("|"),
  "i",
);
const single = /^(model|adapter_model)\.safetensors$/;
const sharded = /^model(-\d{5}-of-\d{5}\.safetensors|\.safetensors\.index\.json)$/;

/**
 * The files of a repository that kiln needs of a model: what describes it, and its weights as safetensors (one file before
 * shards), else as the only GGUF file. With `include`, the files that match a pattern instead (`*` is any text, `?` any
 * character, as huggingface_hub takes them).
 * Errors: a pattern that matches nothing; no weights that kiln reads; several GGUF files, of which one is to be chosen.
 */
export function selectPaths(
  paths: readonly string[],
  repository: string,
  include: readonly string[] = [],
): string[] {
  if (include.length > 0) {
    const patterns = include.map((pattern) => ({ pattern, regex: globRegex(pattern) }));
    const unused = patterns.find(({ regex }) => !paths.some((path) => regex.test(path)));
    if (unused) throw refuse(`${repository} has no file that matches --include ${unused.pattern}`, paths);
    return paths.filter((path) => patterns.some(({ regex }) => regex.test(path)));
  }
  return paths.filter((path) => described.test(path)).concat(weightPaths(paths, repository));
}

function weightPaths(paths: readonly string[], repository: string): string[] {
  const whole = paths.filter((path) => single.test(path));
  const weights = whole.length > 0 ? whole : paths.filter((path) => sharded.test(path));
  if (weights.length > 0) return weights;
  const ggufs = paths.filter((path) => /\.gguf$/i.test(path));
  if (ggufs.length === 1) return ggufs;
  if (ggufs.length > 1)
    throw refuse(`${repository} has several GGUF files: choose one with --include`, ggufs);
  const pickles = paths.filter((path) => /\.(bin|pt|pth|ckpt)$/.test(path));
  if (pickles.length > 0) {
    throw refuse(
      `${repository} has its weights as pickles only, which can run any code when they are loaded: save it with transformers (save_pretrained) and name that folder, or take a repository with safetensors`,
      pickles,
    );
  }
  throw refuse(
    `${repository} has no weights that kiln reads (model.safetensors or GGUF): choose files with --include`,
    paths,
  );
}

function globRegex(pattern: string): RegExp {
  const escaped = pattern.replace(/[.+^${}()|[\]\\]/g, "\\$&");
  return new RegExp(`^${escaped.replaceAll("*", ".*").replaceAll("?", ".")}$`);
}

function refuse(message: string, paths: readonly string[]): KilnError {
  const shown = paths.slice(0, 20).join(", ");
  const rest = paths.length > 20 ? `, and ${paths.length - 20} more` : "";
  return new KilnError(`${message}; there is ${shown || "no file"}${rest}`, { code: "hub_files" });
}
