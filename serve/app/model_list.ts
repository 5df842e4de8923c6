import type { Models, ServedModel } from "../models.ts";
import type { AnswerSource } from "./chat/answers.ts";
import type { ModelInfo, ModelList } from "./protocol.ts";

/** Prompts that a model which talks can answer, and beginnings that one which only writes can go on with. */
const TALK = ["Tell me a short story.", "Explain how rain is made.", "Write a haiku about the sea."];
const WRITE = ["Once upon a time", "The little dog ran", "One day, a girl named Lily"];

/** The models of a server, and those that its source of answers adds, as the page lists them. */
export function modelList(models: Models, source: AnswerSource): ModelList {
  const own = [...models].filter(([name, model]) => name === model.name);
  const list = [...own.map(([, model]) => infoOf(model)), ...(source.listed?.() ?? [])];
  return { models: list, default_model: list.find(({ chat }) => chat)?.name ?? null };
}

function infoOf(model: ServedModel): ModelInfo {
  const { name, facts, parent, maxModelLen } = model;
  const chat = model.kind === "text";
  const base = facts?.format === "gguf" ? "gguf" : "base";
  const examples = chat ? (model.frontend.tokenizer.chatTemplate === null ? WRITE : TALK) : [];
  return {
    ...{ name, kind: parent !== null ? "adapter" : chat ? base : "encoder", state: "ready", progress: null },
    ...{ error: null, log: null, chat, provider: "local", parameters: facts?.parameters ?? null },
    ...{ context_length: maxModelLen, tokens_per_second: null, version: null, aliases: {}, examples },
  };
}
