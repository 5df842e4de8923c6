import { HttpError } from "../errors.ts";
import type { Route, Service } from "../route.ts";

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
  handle: ({ service, rest: name }) => {
    if (service.models.has(name)) return modelBody(service, name);
    throw new HttpError(404, `the model \`${name.slice(0, 100)}\` does not exist`, {
      param: "model",
      code: "model_not_found",
    });
  },
};

function modelBody({ models, created }: Service, id: string) {
  const max_model_len = models.get(id)!.engine.runner.maxModelLen;
  return { id, object: "model", created, owned_by: "kiln", root: id, parent: null, max_model_len };
}
