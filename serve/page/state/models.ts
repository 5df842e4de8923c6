import { signal } from "@preact/signals";
import type { ModelInfo } from "../../app/protocol.ts";
import { current } from "./history.ts";
import { chosenModel } from "./local.ts";

/** The models of the server; null: not known yet. */
export const models = signal<readonly ModelInfo[] | null>(null);
const defaultModel = signal<string | null>(null);

export function setModels(list: readonly ModelInfo[], chosen: string | null): void {
  models.value = list;
  defaultModel.value = chosen;
}

export const chatModels = (): readonly ModelInfo[] => (models.value ?? []).filter(({ chat }) => chat);

/** The name of the model that the next message goes to: the conversation's, the last choice, the server's; one that exists. */
export function modelName(): string | null {
  const names = chatModels().map(({ name }) => name);
  const wanted = [current.value?.model, chosenModel.value, defaultModel.value];
  return wanted.find((name) => name != null && names.includes(name)) ?? names[0] ?? null;
}

export const modelInfo = (): ModelInfo | null =>
  models.value?.find(({ name }) => name === modelName()) ?? null;
