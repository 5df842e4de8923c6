import { z } from "zod";
import type { Limits } from "../limits.ts";
import { answerRef, answerSchemas } from "./answer_schemas.ts";
import type { Route } from "./route.ts";

/** Routes as an OpenAPI 3.1 document. The schemas of bodies are those that check them, the schemas of answers those that tests do. */
export function openApi(routes: readonly Route[], limits: Limits) {
  const paths: Record<string, Record<string, unknown>> = {};
  for (const route of routes) {
    const path = openApiPath(route.path);
    paths[path] = { ...paths[path], [route.method.toLowerCase()]: operation(route, limits) };
  }
  return {
    openapi: "3.1.0",
    info: { title: "kiln", version: "1", description: "OpenAI's API, and vLLM's extensions of it." },
    paths,
    components: {
      schemas: answerSchemas(),
      securitySchemes: { key: { type: "http", scheme: "bearer" } },
    },
  };
}

/** `/a/:id/*` as `/a/{id}/{name}`. */
const openApiPath = (path: string) => path.replace(/:(\w+)/g, "{$1}").replace("*", "{name}");

function operation({ path, open, summary, schema, example, answer, event }: Route, limits: Limits) {
  const error = answerRef("ErrorResponse");
  const { $schema: _, ...body } = schema === undefined ? {} : bodySchema(schema(limits));
  const content = { "application/json": { schema: body, ...(example === undefined ? {} : { example }) } };
  const answers = {
    ...(answer && { "application/json": { schema: answerRef(answer) } }),
    ...(event && { "text/event-stream": { schema: answerRef(event) } }),
  };
  const parameters = [...openApiPath(path).matchAll(/\{(\w+)\}/g)].map(([, name]) => ({
    ...{ name, in: "path", required: true, schema: { type: "string" } },
  }));
  return {
    summary,
    ...(open ? {} : { security: [{ key: [] }] }),
    ...(parameters.length > 0 ? { parameters } : {}),
    ...(schema === undefined ? {} : { requestBody: { required: true, content } }),
    responses: {
      200: { description: "The answer.", ...(answer && { content: answers }) },
      default: { description: "A refusal or failure.", content: { "application/json": { schema: error } } },
    },
  };
}

/** What JSON cannot say, such as 64-bit integers, may be anything there; the server still checks it. */
function bodySchema(schema: z.ZodObject): Record<string, unknown> {
  return z.toJSONSchema(schema, { io: "input", unrepresentable: "any" });
}
