import { loadModel } from "../models/formats/hf_directory.ts";
import { withChat } from "../models/vocabulary.ts";
import { ChatTemplate, PLAIN_TURNS } from "../tokenizer/index.ts";
import { addTrainedAdapter, perTokenModules } from "./adapters.ts";
import { assertLength, assertVocabulary, existingOrigin } from "./model_settings.ts";
import type { RecipeContext } from "./recipe.ts";
import type { AdapterSettings } from "./settings/adapter.ts";
import type { RunSettings } from "./settings/run.ts";

interface ChatModelSettings {
  model: { init_from: string; plain_turns: boolean };
  adapter: AdapterSettings;
  train: RunSettings["train"];
}

/**
 * The decoder that a recipe for conversations starts from, or goes on with: with a chat template and its tokens, and an adapter
 * if one is trained. `note` says what of a template was added; `own` is the tokenizer that it had before; `reopen` gives the model
 * to start from once more, without the adapter.
 */
export async function openChatModel(
  { model: settings, adapter, train }: ChatModelSettings,
  { say, resumeFrom }: RecipeContext,
) {
  const isWhole = adapter.kind === "none";
  const origin = () => existingOrigin(settings.init_from);
  const open = async (path: string) => {
    const loaded = await loadModel(path);
    assertVocabulary(loaded.tokenizer, loaded.model.shape.vocab_size, path);
    const chatting = settings.plain_turns ? { ...loaded, note: null } : await withChat(loaded);
    return { ...chatting, own: loaded.tokenizer };
  };
  const base = isWhole && resumeFrom ? resumeFrom : await origin();
  const { model, tokenizer, note, own } = await open(base);
  assertLength(model, train.sequence_length);
  if (!resumeFrom) say(`starting from ${base}`);
  const whole = tokenizer.vocabSize > own.vocabSize ? perTokenModules(model) : null;
  const added = isWhole
    ? null
    : await addTrainedAdapter(model, adapter, { base, whole, seed: train.seed, say });
  model.computeIn(train.compute_dtype);
  const template = new ChatTemplate(tokenizer, settings.plain_turns ? PLAIN_TURNS : undefined);
  return {
    model,
    tokenizer,
    template,
    note,
    own,
    added,
    reopen: async () => (await open(await origin())).model,
  };
}
