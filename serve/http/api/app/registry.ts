import { z } from "zod";
import { KilnError } from "../../../../core/errors.ts";
import { type RegisteredVersion, Registry } from "../../../../models/registry/registry.ts";
import { AppError, notFound } from "../../../app/app_error.ts";
import { deployToOllama } from "../../../app/data.ts";
import { isPersonal, modelOf } from "../../../app/jobs/names.ts";
import type { ModelVersion } from "../../../app/protocol.ts";
import type { Route } from "../../route.ts";
import { type AppCall, appRoute } from "./app_route.ts";

const STATUS: Record<string, number> = { version_missing: 404, name_invalid: 422, registry_locked: 503 };

async function inRegistry<T>(work: (registry: Registry) => Promise<T>): Promise<T> {
  try {
    return await work(new Registry());
  } catch (error) {
    const status = error instanceof KilnError ? STATUS[error.code] : undefined;
    throw status === undefined
      ? error
      : new AppError(status, (error as KilnError).code, (error as Error).message);
  }
}

const bareName = ({ params }: AppCall<unknown>) => params.name!.replace(/@.*$/, "");

const versions = appRoute({
  method: "GET",
  path: "/api/models/:name/versions",
  summary: "The versions of a model in the registry, newest first",
  handle: (call) =>
    inRegistry(async (registry) => {
      const name = bareName(call);
      if (isPersonal(name) && name !== modelOf(call.userId) && call.principal.role !== "admin")
        throw notFound("model");
      const { versions: numbers } = await registry.model(name);
      const found: ModelVersion[] = [];
      for (const number of numbers.reverse()) found.push(versionOf(await registry.find(`${name}@${number}`)));
      return { versions: found };
    }),
});

function versionOf(found: RegisteredVersion): ModelVersion {
  const { version, kind, parents, metrics, files, content_sha256, note, created_at } = found;
  const known = Object.entries(metrics ?? {}).filter((entry): entry is [string, number] => entry[1] !== null);
  return {
    ...{ version, kind, parents, metrics: Object.fromEntries(known), content_sha256, note: note || null },
    bytes: files.reduce((sum, { bytes }) => sum + bytes, 0),
    created_at: Date.parse(created_at),
  };
}

const alias = appRoute({
  method: "POST",
  path: "/api/models/:name/aliases/:alias",
  summary: "Let an alias stand for a version; servers that follow it switch without a pause",
  example: { version: 3 },
  schema: () => z.object({ version: z.int().min(1) }),
  admins: "models are changed by",
  handle: async (call) => {
    const name = bareName(call as never);
    const { version } = call.body;
    await inRegistry((registry) => registry.alias(name, call.params.alias!, version));
    return { name, alias: call.params.alias!, version };
  },
});

const deploy = appRoute({
  method: "POST",
  path: "/api/deploy/ollama",
  summary: "Give a version to an Ollama server, and check that it writes there what it writes here",
  example: { model: "assistant@3", quantization: "q8_0" },
  schema: () =>
    z.object({
      model: z.string().min(1).max(200),
      ollama_url: z.url({ protocol: /^https?$/ }).optional(),
      quantization: z.enum(["f16", "q8_0"]).optional(),
    }),
  admins: "models are changed by",
  handle: async ({ body: { model, ...how } }) => {
    const { name, version } = await inRegistry((registry) => registry.find(model));
    return deployToOllama(`${name}@${version}`, name, how as { ollama_url?: string; quantization?: string });
  },
});

export const registryRoutes: readonly Route[] = [versions, alias, deploy];
