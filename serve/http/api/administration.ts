import { z } from "zod";
import { KilnError } from "../../../core/errors.ts";
import { RequestError } from "../../engine/errors.ts";
import { HttpError } from "../errors.ts";
import { type Route, route, type Service } from "../route.ts";
import { modelBody } from "./models.ts";

/** What a model may be called: no control characters or spaces, and nothing that looks like a way out of a folder. */
const name = z
  .string()
  .max(200)
  .regex(/^\w[\w.:@+-]*(\/\w[\w.:@+-]*)*$/, "must be letters, digits, _ . : @ + - and single / between them");

/** POST /v1/models/load: answers when the model is ready. */
const load = route({
  method: "POST",
  path: "/v1/models/load",
  summary: "Loads a model from below the server's folders",
  answer: "Model",
  example: { model: "MODEL", path: "folder", aliases: ["latest"] },
  admin: true,
  schema: () =>
    z.object({ model: name, path: z.string().min(1).max(4096), aliases: z.array(name).max(64).nullish() }),
  handle: async ({ body, service }) => {
    const loaded = await told(service, (admin) => admin.load(body.model, body.path, body.aliases ?? []));
    return modelBody(body.model, loaded);
  },
});

/** POST /v1/models/unload: answers when what ran on the model has ended and its memory is free. */
const unload = route({
  method: "POST",
  path: "/v1/models/unload",
  summary: "Takes a model out when what runs on it has ended",
  example: { model: "MODEL" },
  admin: true,
  schema: () => z.object({ model: name }),
  handle: async ({ body, service }) => {
    const { name: model, aliases } = await told(service, (admin) => admin.unload(body.model));
    return { model, aliases, unloaded: true };
  },
});

/** POST /v1/aliases: lets a name stand for a model from the next request on, or for none (`"model": null`). */
const aliases = route({
  method: "POST",
  path: "/v1/aliases",
  summary: "Lets a name stand for a model from the next request on",
  example: { alias: "latest", model: "MODEL" },
  admin: true,
  schema: () => z.object({ alias: name, model: name.nullable() }),
  handle: async ({ body: { alias, model }, service }) => {
    await told(service, async (admin) => admin.alias(alias, model));
    return { alias, model };
  },
});

/** POST /v1/load_lora_adapter, with vLLM's fields and answers; with several models, `base_model_name` says for which. */
const loadAdapter = route({
  method: "POST",
  path: "/v1/load_lora_adapter",
  summary: "Loads an adapter from below the server's folders",
  example: { lora_name: "ADAPTER", lora_path: "folder" },
  admin: true,
  schema: () =>
    z.object({ lora_name: name, lora_path: z.string().min(1).max(4096), base_model_name: name.nullish() }),
  handle: async ({ body: { lora_name, lora_path, base_model_name }, service }) => {
    const base = base_model_name ?? undefined;
    await told(service, (admin) => admin.loadAdapter(lora_name, lora_path, base), { name_taken: 400 });
    return `Success: LoRA adapter '${lora_name}' added successfully.`;
  },
});

/** POST /v1/unload_lora_adapter: answers when what ran with the adapter has ended and its memory is free. */
const unloadAdapter = route({
  method: "POST",
  path: "/v1/unload_lora_adapter",
  summary: "Takes an adapter out when what runs with it has ended",
  example: { lora_name: "ADAPTER" },
  admin: true,
  schema: () => z.object({ lora_name: name }),
  handle: async ({ body: { lora_name }, service }) => {
    await told(service, (admin) => admin.unloadAdapter(lora_name));
    return `Success: LoRA adapter '${lora_name}' removed successfully.`;
  },
});

export const administration: readonly Route[] = [load, unload, aliases, loadAdapter, unloadAdapter];

const statuses: Record<string, number> = {
  name_taken: 409,
  model_not_found: 404,
  out_of_memory: 503,
  engine_unavailable: 503,
};

/** Does something as the administrator, who may read why it failed. @throws HttpError. */
async function told<T>(
  { administration: admin }: Service,
  act: (admin: NonNullable<Service["administration"]>) => Promise<T>,
  special: Record<string, number> = {},
): Promise<T> {
  if (admin === undefined)
    throw new HttpError(403, "models can be changed in kiln serve alone", { code: "administration_off" });
  try {
    return await act(admin);
  } catch (error) {
    // What a request failed of, not the folder.
    if (!(error instanceof KilnError) || error instanceof RequestError) throw error;
    const { message, code } = error;
    throw new HttpError({ ...statuses, ...special }[code] ?? 400, message, { code });
  }
}
