import { Registry } from "../../models/registry/registry.ts";
import type { Models, ServedModel } from "../models.ts";
import type { AnswerSource } from "./chat/answers.ts";
import type { ModelInfo, ModelList } from "./protocol.ts";

/** Prompts that a model which talks can answer, and beginnings that one which only writes can go on with. */
const TALK = ["Tell me a short story.", "Explain how rain is made.", "Write a haiku about the sea."];
const WRITE = ["Once upon a time", "The little dog ran", "One day, a girl named Lily"];

/**
 * The models of a server, and those that its source of answers adds, as the page lists them for a user. A version of the registry is
 * listed by the name that follows its alias, so that who asks by it goes on to the next version.
 */
export async function modelList(models: Models, source: AnswerSource, userId: string): Promise<ModelList> {
  const registry = new Registry();
  const own = [...models].filter(([name, model]) => name === model.name);
  const list: ModelInfo[] = [];
  for (const [, model] of own) {
    const [, name, version] = /^([^@]+)@(\d+)$/.exec(model.name) ?? [];
    const info = infoOf(model);
    if (name === undefined) list.push(info);
    else {
      const names = [...models].flatMap(([other, { name: of }]) => (of === model.name ? [other] : []));
      const following = names.includes(name) ? name : (names.find((one) => one !== model.name) ?? model.name);
      const { aliases } = await registry.model(name);
      list.push({ ...info, name: following, version: Number(version), aliases });
    }
  }
  list.push(...(source.listed?.() ?? []));
  // What one has is what one asks, unless one says another.
  const personal = await source.ownListed?.(userId);
  if (personal) list.unshift(personal);
  return { models: list, default_model: list.find(({ chat }) => chat)?.name ?? null };
}

function infoOf(model: ServedModel): ModelInfo {
  const { name, facts, parent, maxModelLen } = model;
  const chat = model.kind === "text";
  const base = facts?.format === "gguf" ? "gguf" : "base";
  const examples = chat ? (model.frontend.tokenizer.chatTemplate === null ? WRITE : TALK) : [];
  return {
    ...{ name, kind: !chat ? "encoder" : parent !== null ? "adapter" : base, state: "ready", progress: null },
    ...{ error: null, log: null, chat, provider: "local", parameters: facts?.parameters ?? null },
    ...{ context_length: maxModelLen, tokens_per_second: null, version: null, aliases: {}, examples },
  };
}
