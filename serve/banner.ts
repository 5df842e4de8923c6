import { basename, dirname } from "node:path";

/** What a model folder is called by clients: its own name, or its run's where it is just called `model`. */
export function modelNameOf(directory: string): string {
  const own = basename(directory);
  return own === "model" ? basename(dirname(directory)) || own : own;
}

/** How to talk to a server, ready to be pasted. */
export function connectionHelp(url: string, model: string): string {
  const body = JSON.stringify({ model, prompt: "Once upon a time", max_tokens: 64 });
  return `
Serving ${model} at ${url}

  curl ${url}/v1/completions -H 'content-type: application/json' -d '${body}'

  import OpenAI from "openai";
  const client = new OpenAI({ baseURL: "${url}/v1", apiKey: "none" });
  const answer = await client.completions.create({ model: "${model}", prompt: "Once upon a time", max_tokens: 64 });

Ctrl-C stops it.
`;
}
