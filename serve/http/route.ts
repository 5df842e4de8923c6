import type { FastifyReply } from "fastify";
import type { z } from "zod";
import { nearestName } from "../../core/errors.ts";
import { isObject } from "../../core/platform/files.ts";
import type { Administration } from "../administration.ts";
import type { ApplicationHost } from "../app/index.ts";
import type { Limits } from "../limits.ts";
import { type EncoderModel, type Models, type ModelTask, type ServedModel, taskOf } from "../models.ts";
import type { EncoderFrontend, EncoderTask } from "../text/encoder_frontend.ts";
import type { Frontend } from "../text/frontend.ts";
import type { AnswerName } from "./answer_schemas.ts";
import { badRequest, HttpError } from "./errors.ts";
import { type RouteAdvice, refusal } from "./fields.ts";
import type { Caller } from "./gate.ts";
import { firstIssue, inWords } from "./issues.ts";
import type { Metrics } from "./metrics.ts";

/** Shared by all routes of a server. */
export interface Service {
  readonly models: Models;
  readonly limits: Limits;
  readonly metrics: Metrics;
  /** All of them. */
  readonly routes: readonly Route[];
  /** Of servers that were started with a key for it. */
  readonly administration?: Administration | undefined;
  /** Of servers that keep conversations. */
  readonly application?: ApplicationHost | undefined;
}

/** One request for a route. */
export interface Call<Body = unknown> {
  /** As the route's schema parsed it; undefined for a route without one. */
  readonly body: Body;
  /** The part of the path that matches the `*` of the route's path. */
  readonly rest: string;
  /** What stands for the parts `:name` of the path. */
  readonly params: Readonly<Record<string, string>>;
  readonly caller: Caller;
  readonly service: Service;
  readonly reply: FastifyReply;
}

/** One method of one path. The result of `handle` is sent as JSON, a string unchanged. */
export interface Route<Body = never> {
  readonly method: "GET" | "POST" | "PATCH" | "DELETE";
  /** May end in `*`, and have parts `:name`. */
  readonly path: string;
  /** Whether it needs no API key. */
  readonly open?: boolean;
  /** Whether it is one of the application's, which knows its users by itself; its refusals of bodies are 422. */
  readonly app?: boolean;
  /** Another form of the same route, which bodies with a member `query` and without `messages` have. */
  readonly queryForm?: Route;
  /** Whether it takes files, as a form of several parts (multipart/form-data). */
  readonly files?: boolean;
  /** Whether it needs the administrator's key. */
  readonly admin?: boolean;
  /** Bytes that the body may have; default: `limits.bodyBytes`. */
  readonly bodyBytes?: (limits: Limits) => number;
  /** In a few words, for the description of the server. */
  readonly summary: string;
  /** The fields of the body. Others are refused as `fields.ts` says. */
  readonly schema?: (limits: Limits) => z.ZodObject;
  /** A body that the schema accepts. */
  readonly example?: Readonly<Record<string, unknown>>;
  /** The schema of the answer, if it is one of OpenAI's. */
  readonly answer?: AnswerName;
  /** The schema of each event of a streamed answer. */
  readonly event?: AnswerName;
  /** What refusals of other fields advise. */
  readonly advice?: RouteAdvice;
  readonly handle: (call: Call<Body>) => unknown;
}

/** A route with a body shows an example of it. */
interface Described<Schema> {
  readonly schema: (limits: Limits) => Schema;
  readonly example: Readonly<Record<string, unknown>>;
}

/** Types the body of `handle` by the route's schema. */
export function route<Schema extends z.ZodObject>(
  definition: Route<z.infer<Schema>> & Described<Schema>,
): Route {
  return definition;
}

/**
 * Makes the parser of a route's bodies.
 * @returns a function that throws HttpError 400 with `param` = dotted path of the first bad field.
 */
export function bodyParser(
  schema: z.ZodObject,
  strict: boolean,
  advice?: RouteAdvice,
): (body: unknown) => Record<string, unknown> {
  return (body) => {
    if (!isObject(body)) {
      throw new HttpError(400, "the request body must be a JSON object", { code: "invalid_json" });
    }
    const parsed = schema.safeParse(body, { error: inWords });
    if (!parsed.success) {
      const { path, message } = firstIssue(parsed.error.issues);
      const param = path.join(".");
      throw badRequest(param, `${param}: ${message}`);
    }
    for (const [name, value] of Object.entries(body)) {
      const refused = Object.hasOwn(schema.shape, name) ? null : refusal(name, value, strict, advice);
      if (refused !== null) throw refused;
    }
    return parsed.data;
  };
}

/** Makes the parser of the application's bodies. @returns a function that throws HttpError 422, also for unknown fields. */
export function appParser(schema: z.ZodObject): (body: unknown) => Record<string, unknown> {
  const names = Object.keys(schema.shape);
  const refuse = (param: string | null, message: string) =>
    new HttpError(422, message, { param, code: "invalid_body" });
  return (body) => {
    if (!isObject(body)) throw refuse(null, "the request body must be a JSON object");
    const unknown = Object.keys(body).find((name) => !names.includes(name));
    if (unknown !== undefined) {
      const near = nearestName(unknown, names);
      const hint = near === null ? `its fields are ${names.join(", ")}` : `did you mean ${near}?`;
      throw refuse(unknown, `there is no field ${unknown.slice(0, 100)}: ${hint}`);
    }
    const parsed = schema.safeParse(body, { error: inWords });
    if (parsed.success) return parsed.data;
    const { path, message } = firstIssue(parsed.error.issues);
    throw refuse(path.join("."), `${path.join(".")}: ${message}`);
  };
}

/** The model with a name or alias. @throws HttpError 404. */
export function servedModel({ models }: Service, name: string): ServedModel {
  const found = models.get(name);
  if (found !== undefined) return found;
  const names = [...models].map(([known]) => `\`${known}\``).join(", ");
  throw new HttpError(
    404,
    `the model \`${name.slice(0, 100)}\` does not exist; this server has ${names || "none"}`,
    { param: "model", code: "model_not_found" },
  );
}

/** The front end of the model with a name, which must write text. @throws HttpError 404; 400 for an encoder. */
export function modelNamed(service: Service, name: string): Frontend {
  const model = servedModel(service, name);
  if (model.kind === "text") return model.frontend;
  throw wrongTask(service, name, model, (other) => other.kind === "text", "which writes no text");
}

/**
 * The front end of the encoder with a name, which must be one for these tasks; messages call the route `path`.
 * @throws HttpError 404; 400 for a model of another kind.
 */
export function encoderNamed<Name extends EncoderTask["name"]>(
  service: Service,
  name: string,
  tasks: readonly Name[],
  path: string,
): EncoderFrontend<Extract<EncoderTask, { name: Name }>> {
  const does = (model: ServedModel) => tasks.includes(taskOf(model) as Name);
  const model = servedModel(service, name);
  if (does(model)) return (model as EncoderModel).frontend as never;
  throw wrongTask(service, name, model, does, `which ${path} cannot use`);
}

function wrongTask(
  service: Service,
  name: string,
  model: ServedModel,
  does: (other: ServedModel) => boolean,
  problem: string,
): HttpError {
  const others = [...service.models].filter(([, other]) => does(other)).map(([known]) => `\`${known}\``);
  const { is, routes } = purposes[taskOf(model)];
  const names = [others.slice(0, -1).join(", "), ...others.slice(-1)].filter((text) => text !== "");
  const remedy = others.length > 0 ? `use ${names.join(" or ")}` : `${is} is for ${routes}`;
  return badRequest("model", `\`${name}\` is ${is}, ${problem}: ${remedy}`, "model_not_supported");
}

/** What models are for. */
const purposes: Record<ModelTask, { is: string; routes: string }> = {
  generate: { is: "a model that writes text", routes: "/v1/completions and the like" },
  embed: { is: "an embedding model", routes: "/v1/embeddings, /score and /rerank" },
  classify: { is: "a classifier", routes: "/classify" },
  score: { is: "a model that scores pairs of texts", routes: "/score and /rerank" },
};

/** The name of the model of a server that has one, with adapters or without. @throws HttpError 400. */
export function onlyModel({ models }: Service): string {
  const names = [...new Set([...models].flatMap(([, { name, parent }]) => (parent === null ? [name] : [])))];
  if (names.length === 1) return names[0];
  throw badRequest("model", `model is missing: this server has ${names.length} models`);
}
