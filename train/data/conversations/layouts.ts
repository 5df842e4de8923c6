import { describe, KilnError, nearestName } from "../../../core/errors.ts";
import { isObject } from "../../../core/platform/files.ts";
import {
  type ChatMessage,
  type Conversation,
  ConversationError,
  chatFormatNames,
  checkConversation,
  detectChatFormat,
  type Row,
  readConversation,
} from "../../../tokenizer/index.ts";

/** How the rows of a file are read as conversations. */
export interface Layout {
  /** What it takes for what, for people. */
  mapping: string;
  /** Throws ConversationError. */
  read(row: Row): Conversation;
  /** Rows of one turn each, which `conversation_id` puts together. */
  isTurns?: boolean;
}

/** Names that data sets have for a question and its answer, the most specific first. */
const askedNames = ["prompt", "question", "query", "user_message", "user", "human", "input", "instruction"];
const answerNames = [
  "response",
  "answer",
  "assistant_message",
  "assistant",
  "completion",
  "output",
  "reply",
  "bot",
  "gpt",
];
const systemNames = ["system", "system_prompt"];
const listNames = ["messages", "conversations", "dialog", "dialogue", "utterances", "turns", "conversation"];
const speakerNames = ["role", "from", "speaker", "sender", "author", "id"];
const textNames = ["content", "value", "text", "utterance", "message"];
const turnColumns = ["conversation_id", "turn", "role", "content"];

const has = (row: Row, name: string) => row[name] !== undefined && row[name] !== null;
const firstOf = (row: Row, names: readonly string[]) => names.find((name) => has(row, name));

/** `--map` and `map:` names of a row's fields: prompt, response, system, messages, or any field of the metadata. */
export type FieldMap = Readonly<Record<string, string>>;

function renamed(row: Row, map: FieldMap): Row {
  const taken = new Set(Object.values(map));
  const rest = Object.entries(row).filter(([name]) => !taken.has(name));
  return {
    ...Object.fromEntries(rest),
    ...Object.fromEntries(Object.entries(map).map(([to, from]) => [to, row[from]])),
  };
}

function checkMap(rows: readonly Row[], map: FieldMap, file: string): void {
  const known = [...new Set(rows.flatMap(Object.keys))];
  for (const [to, from] of Object.entries(map)) {
    if (known.includes(from)) continue;
    const near = nearestName(from, known);
    throw new KilnError(
      `${file} has no field ${JSON.stringify(from)} for ${to}: ${near ? `did you mean ${near}? ` : ""}it has ${known.join(", ")}`,
      { code: "column_missing" },
    );
  }
}

/** The layout that fits most of the first rows. Throws ConversationError where none does; KilnError for a field that is not there. */
export function detectLayout(rows: readonly Row[], map: FieldMap, file: string): Layout {
  const isMapped = Object.keys(map).length > 0;
  if (isMapped) checkMap(rows, map, file);
  const sample = isMapped ? rows.map((row) => renamed(row, map)) : rows;
  const layouts = candidates(sample);
  const count = ({ read, isTurns }: Layout) =>
    sample.filter((row) => {
      if (isTurns) return turnColumns.every((name) => name in row);
      try {
        return read(row) !== null;
      } catch {
        return false;
      }
    }).length;
  const scores = layouts.map(count);
  const best = scores.indexOf(Math.max(...scores));
  if (layouts.length === 0 || scores[best] === 0) {
    detectChatFormat(sample[0]); // its error says what is wanted
    layouts[0]?.read(sample[0]);
  }
  const { read, mapping, ...rest } = layouts[best];
  if (!isMapped) return layouts[best];
  const named = Object.entries(map).map(([to, from]) => `${to}=${from}`);
  return { ...rest, mapping: `${mapping} (${named.join(", ")})`, read: (row) => read(renamed(row, map)) };
}

/** Layouts that a sample may have, the most specific first. */
function candidates(rows: readonly Row[]): Layout[] {
  const first = rows[0] ?? {};
  if (turnColumns.every((name) => name in first))
    return [{ mapping: "turns by conversation_id", read: () => ({ messages: [] }), isTurns: true }];
  const formats = new Set<Layout["mapping"]>();
  const found: Layout[] = [];
  for (const row of rows) {
    const name = chatFormatNames.find((format) => {
      try {
        return format === detectChatFormat(row);
      } catch {
        return false;
      }
    });
    if (name === undefined || formats.has(name)) continue;
    formats.add(name);
    found.push({ mapping: name, read: (one) => readConversation(one, name) });
  }
  const list = firstOf(first, listNames);
  if (list !== undefined) found.push({ mapping: `turns of ${list}`, read: (row) => fromTurns(row, list) });
  const asked = firstOf(first, askedNames);
  const answer = firstOf(
    first,
    answerNames.filter((name) => name !== asked),
  );
  if (asked !== undefined && answer !== undefined) {
    const system = firstOf(first, systemNames);
    const mapping = `prompt=${asked}, response=${answer}${system ? `, system=${system}` : ""}`;
    found.push({ mapping, read: (row) => fromPair(row, asked, answer, system) });
  }
  return found;
}

function text(row: Row, name: string): string {
  const value = row[name] ?? "";
  if (typeof value !== "string")
    throw new ConversationError(`${name} should be text, got ${describe(value)}`);
  return value;
}

const without = (row: Row, names: readonly (string | undefined)[]) => {
  const rest = Object.entries(row).filter(([name, value]) => !names.includes(name) && value !== undefined);
  return rest.length > 0 ? { metadata: Object.fromEntries(rest) } : {};
};

function fromPair(row: Row, asked: string, answer: string, system?: string): Conversation {
  const said = system === undefined ? "" : text(row, system);
  return {
    messages: [
      ...(said === "" ? [] : [{ role: "system" as const, content: said }]),
      { role: "user", content: text(row, asked) },
      { role: "assistant", content: text(row, answer) },
    ],
    ...without(row, [asked, answer, system]),
  };
}

/**
 * A dialogue as a list of turns, in lists of lists too: texts in turn, or objects with a speaker and a text. Where two speakers
 * have names of their own, the one who begins is the user. What one speaker says in several turns is one message.
 */
function fromTurns(row: Row, list: string): Conversation {
  const turns = row[list];
  if (!Array.isArray(turns)) throw new ConversationError(`${list} should be a list, got ${describe(turns)}`);
  const said = (turns.flat() as unknown[]).map((turn, i) => {
    if (typeof turn === "string") return { speaker: i % 2 === 0 ? "user" : "assistant", content: turn };
    const speaker = isObject(turn) ? firstOf(turn, speakerNames) : undefined;
    const words = isObject(turn) ? firstOf(turn, textNames) : undefined;
    if (speaker === undefined || words === undefined)
      throw new ConversationError(`${list}[${i}] should have a speaker and a text, got ${describe(turn)}`);
    return { speaker: String((turn as Row)[speaker]), content: text(turn as Row, words) };
  });
  const names = [...new Set(said.map(({ speaker }) => speaker))];
  const roles = new Map<string, string>(names.map((name) => [name, knownRoles[name.toLowerCase()] ?? name]));
  const isUnknown = names.every((name) => knownRoles[name.toLowerCase()] === undefined);
  if (isUnknown && names.length === 2)
    for (const [i, name] of names.entries()) roles.set(name, ["user", "assistant"][i]);
  const messages: ChatMessage[] = [];
  for (const { speaker, content } of said) {
    const role = roles.get(speaker) as ChatMessage["role"];
    const last = messages.at(-1);
    if (last?.role === role) last.content += `\n${content}`;
    else messages.push({ role, content });
  }
  return checkConversation({ messages, ...without(row, [list]) });
}

const knownRoles: Readonly<Record<string, ChatMessage["role"]>> = {
  ...{ system: "system", user: "user", human: "user", customer: "user", prompter: "user" },
  ...{
    assistant: "assistant",
    bot: "assistant",
    agent: "assistant",
    gpt: "assistant",
    model: "assistant",
    ai: "assistant",
  },
};
