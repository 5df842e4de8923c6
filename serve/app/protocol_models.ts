/** Bodies of `/api/*` about people, keys, providers and models: part of protocol.ts, which says how they are written. */

import type { Params } from "./protocol.ts";

/** `POST /api/login {token}` answers with it. `mode` single: nobody logs in. */
export interface User {
  id: string;
  name: string;
  role: "admin" | "member" | "service";
  mode: "single" | "multi";
}

/** `GET /api/me`: who asks, and what they chose. */
export interface Me extends User {
  settings: Settings;
}
/** `PATCH /api/me/settings` changes those that it names, takes away those that are null, and answers with all. */
export interface Settings {
  theme?: "system" | "light" | "dark";
  /** Of the next messages. */
  params?: Params;
  /** For conversations that do not exist yet. */
  model?: string;
  system?: string;
  consent?: boolean;
}
export type SettingsPatch = { [Name in keyof Settings]: Settings[Name] | null };

/**
 * `GET /api/users`, for admins. `POST {name, role?}` answers 201 with `{user, token}`, the token shown this once; `PATCH
 * /api/users/:id` with the UserAccount; `POST /api/users/:id/keys` 201 with a NewKey.
 */
export interface UserList {
  users: UserAccount[];
}
export interface UserAccount extends Omit<User, "mode"> {
  created_at: number;
  /** null: it may ask. */
  disabled_at: number | null;
}
export interface UserPatch {
  role?: User["role"];
  disabled?: boolean;
}

/** `DELETE /api/me/data` removes all that the caller wrote and answers with rows by table. */
export interface Deleted {
  deleted: Record<string, number>;
}

/** `GET /api/keys`; `POST {name, scopes?}` answers 201 with the one that has `token`, shown this once; `DELETE /api/keys/:id` 204. */
export interface KeyList {
  keys: ApiKey[];
}
export interface ApiKey {
  id: string;
  /** Its first characters. */
  prefix: string;
  scopes: string[];
  created_at: number;
  last_used_at: number | null;
}
export interface NewKey extends ApiKey {
  token: string;
}

/** `GET /api/providers`: upstreams, never their keys. `circuit` open: calls are refused for a while after failures. */
export interface ProviderList {
  providers: {
    name: string;
    dialect: "local" | "openai" | "hf-inference" | "ollama";
    base_url: string | null;
    models: string[];
    key: "set" | "missing" | "not needed";
    circuit: "closed" | "open" | "half_open";
  }[];
}

/** `GET /api/models` */
export interface ModelList {
  models: ModelInfo[];
  default_model: string | null;
}
export interface ModelInfo {
  /** As `model` of other bodies has it. */
  name: string;
  kind: "base" | "adapter" | "classifier" | "encoder" | "gguf";
  /** `available`: in the registry, loaded when it is asked for. */
  state: "ready" | "loading" | "available" | "failed";
  /** Of loading. */
  progress: number | null;
  /** Why it failed, and the path of the log that says more. */
  error: string | null;
  log: string | null;
  /** Whether it can answer in a chat. */
  chat: boolean;
  provider: string;
  parameters: number | null;
  context_length: number | null;
  /** As last measured, for one answer alone. */
  tokens_per_second: number | null;
  /** What `name` stands for now in the registry; null where it is not from there. */
  version: number | null;
  aliases: Record<string, number>;
  /** Prompts that fit this model, for an empty chat. */
  examples: string[];
}

/** `GET /api/models/:name/versions`, newest first. */
export interface VersionList {
  versions: ModelVersion[];
}
export interface ModelVersion {
  version: number;
  kind: ModelInfo["kind"];
  /** `name@version` */
  parents: string[];
  metrics: Record<string, number>;
  bytes: number;
  content_sha256: string;
  note: string | null;
  created_at: number;
}

/** `POST /api/models/:name/aliases/:alias {version}` switches without dropping a request and answers with this. */
export interface AliasResult {
  name: string;
  alias: string;
  version: number;
}

/** `POST /api/deploy/ollama`: answers when the deployed model gave the same greedy tokens as ours; otherwise an error. */
export interface DeployBody {
  /** `name@version` */
  model: string;
  ollama_url?: string;
  quantization?: "f16" | "q8_0";
}
export interface DeployResult {
  name: string;
  url: string;
  prompts_checked: number;
  tokens_checked: number;
}
