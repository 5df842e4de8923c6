import type { Tokenizer } from "../../tokenizer/index.ts";

/** What a Modelfile says about a model. */
export interface ModelfileSettings {
  /** The GGUF file, as seen from the Modelfile. */
  from: string;
  tokenizer: Tokenizer;
  /** Tokens of prompt and answer together. */
  contextLength: number;
}

/** ChatML as a Go template (text/template): Ollama gives the turns as `.Messages`. */
const chatMl = `{{- range .Messages }}<|im_start|>{{ .Role }}
{{ .Content }}<|im_end|>
{{ end }}<|im_start|>assistant
`;

/** Ollama's parser/parser.go takes what is between quotes as it is: it knows no escapes. */
const inQuotes = (text: string) => (/^"|\n/.test(text) ? `"""${text}"""` : `"${text}"`);

/**
 * How Ollama makes a text of turns, and where an answer stops. A model without a chat template continues its prompt as it is; one
 * with a template other than ChatML keeps the one inside the GGUF file (null), of which Ollama recognises the common ones.
 */
export function turnSettings(tokenizer: Tokenizer): { template: string | null; stops: string[] } {
  const { chatTemplate } = tokenizer;
  const isChatMl = chatTemplate?.includes("<|im_start|>") ?? false;
  const template = isChatMl ? chatMl : chatTemplate === null ? "{{ .Prompt }}" : null;
  const ends = tokenizer.eosIds.flatMap((id) => tokenizer.idToToken(id) ?? []);
  return { template, stops: [...new Set([...(isChatMl ? ["<|im_start|>", "<|im_end|>"] : []), ...ends])] };
}

/** Ollama's Modelfile (its docs/modelfile.md): the model, how turns become text, where an answer stops, and the context. */
export function modelfile({ from, tokenizer, contextLength }: ModelfileSettings): string {
  const { template, stops } = turnSettings(tokenizer);
  const lines = [
    `FROM ${from}`,
    ...(template === null
      ? ["# The chat template is the one in the GGUF file."]
      : [`TEMPLATE """${template}"""`]),
    ...stops.map((stop) => `PARAMETER stop ${inQuotes(stop)}`),
    `PARAMETER num_ctx ${contextLength}`,
  ];
  return `${lines.join("\n")}\n`;
}
