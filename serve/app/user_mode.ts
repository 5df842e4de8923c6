import { usageError } from "../../core/errors.ts";
import { environmentVariable } from "../../core/platform/environment.ts";
import type { User } from "./protocol.ts";

/** `single`: one user, who needs no login; `multi`: everyone has tokens. */
export type UserMode = User["mode"];

/** `KILN_USERS`. @throws KilnError for another word than the two. */
export function userMode(): UserMode {
  const mode = environmentVariable("KILN_USERS") || "single";
  if (mode === "single" || mode === "multi") return mode;
  throw usageError(`KILN_USERS is ${mode}: set it to single or multi`);
}
