import { createHash } from "node:crypto";
import { z } from "zod";
import { type ServedModel, taskOf } from "../../../models.ts";
import { toolFormatOf } from "../../../text/tool_calls.ts";
import { badRequest } from "../../errors.ts";
import { type Route, route, type Service } from "../../route.ts";
import { ours } from "../server_info.ts";
import { flag } from "../text_fields.ts";
import { modelOf } from "./fields.ts";

/** GET /api/tags: the models by their names and aliases. */
export const tags: Route = {
  method: "GET",
  path: "/api/tags",
  summary: "The models, as Ollama lists them",
  handle: ({ service }) => ({ models: listed(service).map(([name, model]) => entry(name, model)) }),
};

/** GET /api/ps: the same models, all of which are loaded and stay so. */
export const ps: Route = {
  method: "GET",
  path: "/api/ps",
  summary: "The loaded models, as Ollama lists them",
  handle: ({ service }) => ({
    models: listed(service).map(([name, model]) => {
      const { modified_at: _, ...rest } = entry(name, model);
      return { ...rest, expires_at: NEVER, size_vram: rest.size, context_length: model.maxModelLen };
    }),
  }),
};

/** GET /api/version. */
export const version: Route = {
  method: "GET",
  path: "/api/version",
  summary: "The server's version, for clients of Ollama",
  handle: () => ({ version: ours }),
};

/** POST /api/show. */
export const show = route({
  method: "POST",
  path: "/api/show",
  summary: "A model, as Ollama describes it",
  example: { model: "MODEL" },
  schema: () => z.object({ model: z.string().nullish(), name: z.string().nullish(), verbose: flag }),
  handle: ({ body, service }) => {
    const name = body.model ?? body.name;
    if (!name) throw badRequest("model", "model is missing");
    const model = modelOf(service, name);
    const template = model.kind === "text" ? model.frontend.tokenizer.chatTemplate : null;
    const { family, parameters } = model.facts ?? UNKNOWN;
    return {
      ...{ modelfile: `FROM ${model.name}\n`, parameters: "", template: template ?? "" },
      details: detailsOf(model),
      model_info: {
        "general.architecture": family,
        "general.parameter_count": parameters,
        [`${family}.context_length`]: model.maxModelLen,
      },
      capabilities: capabilitiesOf(model, template),
      modified_at: timeOf(model),
    };
  },
});

/** Far away: nothing is unloaded for want of use. */
const NEVER = "9999-12-31T00:00:00Z";
const UNKNOWN = { family: "", format: "", parameters: 0, bytes: 0, dtype: "" };

const listed = ({ models }: Service) => [...models];

/** Names without a tag get Ollama's. */
const tagged = (name: string) => (/:[^/]*$/.test(name) ? name : `${name}:latest`);

const timeOf = ({ created }: ServedModel) => new Date(created * 1000).toISOString();

function entry(name: string, model: ServedModel) {
  const identity = JSON.stringify([model.name, model.created, model.facts]);
  return {
    ...{ name: tagged(name), model: tagged(name), modified_at: timeOf(model) },
    size: model.facts?.bytes ?? 0,
    digest: createHash("sha256").update(identity).digest("hex"),
    details: detailsOf(model),
  };
}

function detailsOf({ facts, parent }: ServedModel) {
  const { family, format, parameters, dtype } = facts ?? UNKNOWN;
  return {
    ...{ parent_model: parent ?? "", format, family, families: [family] },
    ...{ parameter_size: inWords(parameters), quantization_level: dtype.toUpperCase() },
  };
}

/** 260K, 124.4M, 1.5B. */
function inWords(count: number): string {
  const [unit, size] = count >= 1e9 ? ["B", 1e9] : count >= 1e6 ? ["M", 1e6] : ["K", 1e3];
  return `${Number((count / Number(size)).toFixed(1))}${unit}`;
}

function capabilitiesOf(model: ServedModel, template: string | null): string[] {
  const task = taskOf(model);
  if (task !== "generate") return task === "embed" ? ["embedding"] : [];
  return ["completion", ...(template !== null && toolFormatOf(template) !== null ? ["tools"] : [])];
}
