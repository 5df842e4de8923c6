import { CausalLM } from "../models/decoder.ts";
import { fromPretrained } from "../models/formats/hf_directory.ts";
import * as models from "../models/pipeline.ts";
import { textGeneration } from "../models/text_generation.ts";
import { TextGenerator } from "./text/text_generator.ts";

/**
 * `pipeline` of `kiln/models`, which also writes text with Llama and GPT-2 models, by the server's engine:
 *
 *     const write = await pipeline("text-generation", "runs/demo/model");
 *     const [{ generated_text }] = await write("Once upon a time", { max_new_tokens: 50 });
 *
 * @throws KilnError as that of `kiln/models`
 */
export async function pipeline<T extends models.PipelineTask>(
  task: T,
  source: models.PipelineSource,
  options: models.PipelineOptions = {},
): Promise<models.Pipelines[T]> {
  const loaded = typeof source === "string" ? await fromPretrained(source, options) : source;
  const { model, tokenizer } = loaded;
  if (task !== "text-generation" || !(model instanceof CausalLM))
    return models.pipeline(task, loaded, options);
  return textGeneration(new TextGenerator(model, tokenizer), tokenizer) as models.Pipelines[T];
}
