import { type ServedModel, taskOf } from "../../models.ts";
import { type Route, servedModel } from "../route.ts";

/** GET /v1/models. */
export const models: Route = {
  method: "GET",
  path: "/v1/models",
  summary: "The models and their aliases",
  answer: "ListModelsResponse",
  handle: ({ service }) => ({
    object: "list",
    data: [...service.models].map(([name, model]) => modelBody(name, model)),
  }),
};

/** GET /v1/models/{id}; a name may contain slashes. */
export const model: Route = {
  method: "GET",
  path: "/v1/models/*",
  summary: "One model",
  answer: "Model",
  handle: ({ service, rest: name }) => modelBody(name, servedModel(service, name)),
};

/** vLLM's fields: `root` is the model that an alias stands for or the folder of an adapter, `parent` the model of an adapter. */
export function modelBody(id: string, model: ServedModel) {
  const { name, created, parent, maxModelLen, root = name } = model;
  return {
    ...{ id, object: "model", created, owned_by: "kiln" },
    ...{ root, parent, max_model_len: maxModelLen, task: taskOf(model) },
  };
}
