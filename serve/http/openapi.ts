import { z } from "zod";
import type { Limits } from "../limits.ts";
import type { Route } from "./route.ts";

const ERROR = {
  type: "object",
  required: ["error"],
  properties: {
    error: {
      type: "object",
      required: ["message", "type", "param", "code"],
      properties: {
        message: { type: "string" },
        type: { type: "string" },
        param: { type: ["string", "null"], description: "Dotted path of the field that was refused." },
        code: { type: ["string", "null"] },
      },
    },
  },
};

/** Routes as an OpenAPI 3.1 document. The schemas of bodies are those that check them. */
export function openApi(routes: readonly Route[], limits: Limits) {
  const paths: Record<string, Record<string, unknown>> = {};
  for (const route of routes) {
    const path = route.path.replace("*", "{name}");
    paths[path] = { ...paths[path], [route.method.toLowerCase()]: operation(route, limits) };
  }
  return {
    openapi: "3.1.0",
    info: { title: "kiln", version: "1", description: "OpenAI's API, and vLLM's extensions of it." },
    paths,
    components: {
      schemas: { ErrorResponse: ERROR },
      securitySchemes: { key: { type: "http", scheme: "bearer" } },
    },
  };
}

function operation({ path, open, summary, schema, example }: Route, limits: Limits) {
  const error = { $ref: "#/components/schemas/ErrorResponse" };
  const { $schema: _, ...body } = schema === undefined ? {} : bodySchema(schema(limits));
  const content = { "application/json": { schema: body, ...(example === undefined ? {} : { example }) } };
  const parameters = [{ name: "name", in: "path", required: true, schema: { type: "string" } }];
  return {
    summary,
    ...(open ? {} : { security: [{ key: [] }] }),
    ...(path.endsWith("*") ? { parameters } : {}),
    ...(schema === undefined ? {} : { requestBody: { required: true, content } }),
    responses: {
      200: { description: "The answer." },
      default: { description: "A refusal or failure.", content: { "application/json": { schema: error } } },
    },
  };
}

/** What JSON cannot say, such as 64-bit integers, may be anything there; the server still checks it. */
function bodySchema(schema: z.ZodObject): Record<string, unknown> {
  return z.toJSONSchema(schema, { io: "input", unrepresentable: "any" });
}
