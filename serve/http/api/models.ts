import { modelNamed, type Route, type Service } from "../route.ts";

/** GET /v1/models. */
export const models: Route = {
  method: "GET",
  path: "/v1/models",
  handle: ({ service }) => ({
    object: "list",
    data: [...service.models.keys()].map((name) => modelBody(service, name)),
  }),
};

/** GET /v1/models/{id}; a name may contain slashes. */
export const model: Route = {
  method: "GET",
  path: "/v1/models/*",
  handle: ({ service, rest: name }) => modelBody(service, name),
};

function modelBody(service: Service, id: string) {
  const { created } = service;
  const max_model_len = modelNamed(service, id).engine.runner.maxModelLen;
  return { id, object: "model", created, owned_by: "kiln", root: id, parent: null, max_model_len };
}
