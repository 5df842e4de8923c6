import type { HostBatch, Recipe } from "../recipe.ts";
import type { RunSettings } from "../settings/run.ts";

/** `kiln train NAME`: a line of help, and the recipe, loaded when it is needed. */
interface Row {
  description: string;
  load(): Promise<Recipe<RunSettings, HostBatch>>;
}

const row = <C extends RunSettings, B extends HostBatch, I extends object>(
  description: string,
  load: () => Promise<{ recipe: Recipe<C, B, I> }>,
): Row => ({
  description,
  load: async () => (await load()).recipe as unknown as Recipe<RunSettings, HostBatch>,
});

/** Every recipe, by its name. How to add one: docs/adding-a-recipe.md. */
export const recipes: Readonly<Record<string, Row>> = {
  pretrain: row(
    "train a Llama (or a GPT-2) from scratch on text, JSONL, or gzip of either; without data on built-in stories",
    () => import("./pretrain.ts"),
  ),
};
