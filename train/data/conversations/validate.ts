import { isObject } from "../../../core/platform/files.ts";
import { chatRoles } from "../../../tokenizer/index.ts";

export type FaultCode =
  | "not_json"
  | "missing_role"
  | "unknown_role"
  | "empty_content"
  | "bad_order"
  | "no_assistant"
  | "duplicate_id"
  | "too_long"
  | "bad_row";

/** Something that is wrong with a row. */
export interface Fault {
  /** From 1. */
  row: number;
  /** Where in the row, such as `messages[2].role`; empty for the whole of it. */
  path: string;
  code: FaultCode;
  message: string;
}

type Report = (path: string, code: FaultCode, message: string) => void;

const quoted = (value: unknown) => (JSON.stringify(value) ?? String(value)).slice(0, 40);

/**
 * Everything that is wrong with conversations `{id?, messages}`: each needs a user's and an assistant's turn; a system message
 * comes first, if at all; then user and assistant alternate, a tool only after an assistant or another tool, and an assistant
 * after tools; no content is blank, except beside tool calls; ids differ. `longest` bounds the characters of a message.
 */
export function validateConversations(rows: Iterable<unknown>, longest = Number.POSITIVE_INFINITY): Fault[] {
  const faults: Fault[] = [];
  const firstOf = new Map<string, number>();
  let row = 0;
  for (const value of rows) {
    row++;
    const report: Report = (path, code, message) => faults.push({ row, path, code, message });
    if (!isObject(value) || !Array.isArray(value.messages)) {
      report("", isObject(value) ? "bad_row" : "not_json", "should be an object with a list of messages");
      continue;
    }
    if (typeof value.id === "string") {
      const first = firstOf.get(value.id);
      if (first === undefined) firstOf.set(value.id, row);
      else report("id", "duplicate_id", `${quoted(value.id)} is the id of row ${first} too`);
    }
    checkMessages(value.messages, longest, report);
  }
  return faults;
}

function checkMessages(messages: readonly unknown[], longest: number, report: Report): void {
  const roles: unknown[] = [];
  for (const [i, message] of messages.entries()) {
    const path = `messages[${i}]`;
    const given: Record<string, unknown> = isObject(message) ? message : {};
    const { role, content, tool_calls: calls } = given;
    roles.push(role);
    if (role === undefined || role === null || role === "")
      report(`${path}.role`, "missing_role", "no role is given");
    else if (!chatRoles.some((known) => known === role))
      report(`${path}.role`, "unknown_role", `${quoted(role)} is none of ${chatRoles.join(", ")}`);
    else if (!mayFollow(roles[i - 1], role, i))
      report(`${path}.role`, "bad_order", `${role} comes ${i === 0 ? "first" : `after ${roles[i - 1]}`}`);
    const hasCalls = Array.isArray(calls) && calls.length > 0;
    if (typeof content !== "string" || content.trim() === "") {
      if (!hasCalls) report(`${path}.content`, "empty_content", "nothing is said");
    } else if (content.length > longest && [...content].length > longest)
      report(`${path}.content`, "too_long", `has ${[...content].length} characters, over ${longest}`);
  }
  if (!roles.includes("assistant") || !roles.includes("user"))
    report(
      "messages",
      "no_assistant",
      `there is no turn of the ${roles.includes("user") ? "assistant" : "user"}`,
    );
}

function mayFollow(before: unknown, role: unknown, index: number): boolean {
  if (role === "system") return index === 0;
  if (role === "user") return index === 0 || before === "system" || before === "assistant";
  if (role === "tool") return before === "assistant" || before === "tool";
  return before === "user" || before === "tool";
}
