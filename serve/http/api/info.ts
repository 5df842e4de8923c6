import { ServeError } from "../../errors.ts";
import type { Frontend } from "../../text/frontend.ts";

/** GET /health: 200 while requests are accepted. @throws ServeError 503 otherwise. */
export function health(frontend: Frontend): { status: "ok" } {
  const { state } = frontend.engine;
  if (state === "draining")
    throw new ServeError(503, "the server is shutting down", { code: "shutting_down" });
  if (state === "hung")
    throw new ServeError(503, "the model does not respond", { code: "engine_unavailable" });
  if (state === "failing")
    throw new ServeError(503, "the model fails on every step", { code: "engine_failing" });
  return { status: "ok" };
}

/** GET /v1/models. @param created Unix seconds. */
export function listModels(frontend: Frontend, created: number) {
  return { object: "list", data: [modelBody(frontend, created)] };
}

/** GET /v1/models/{id}. @throws ServeError 404 for another name. */
export function getModel(frontend: Frontend, created: number, name: string) {
  if (name === frontend.modelName) return modelBody(frontend, created);
  throw new ServeError(404, `the model \`${name.slice(0, 100)}\` does not exist`, {
    param: "model",
    code: "model_not_found",
  });
}

function modelBody({ modelName, engine }: Frontend, created: number) {
  return {
    id: modelName,
    object: "model",
    created,
    owned_by: "kiln",
    root: modelName,
    parent: null,
    max_model_len: engine.runner.maxModelLen,
  };
}
