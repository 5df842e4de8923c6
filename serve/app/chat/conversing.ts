import { newId, type Store } from "../../store/index.ts";
import { AppError, notAnAnswer } from "../app_error.ts";
import { type BudgetSettings, Budgets } from "../budgets.ts";
import { type Grounding, type Retrieve, saying } from "../documents/grounding.ts";
import type { Searches } from "../documents/search.ts";
import { type AppEvent, Sessions } from "../events.ts";
import type { Assigned } from "../experiments/assign.ts";
import type { Experiments } from "../experiments/experiments.ts";
import type { ChatAccepted, Conversation, Message, Params } from "../protocol.ts";
import { answerRows } from "./answer_rows.ts";
import type { AnswerSource, Turn } from "./answers.ts";
import { Chats } from "./chats.ts";
import type { Context } from "./context.ts";
import {
  type AnswerEvent,
  type AnswerListener,
  type AnswerRows,
  Generation,
  isEnd,
  type TIMES,
} from "./generation.ts";
import { groundedContext, keepSources } from "./grounded.ts";
import { type Branch, beginning, readBranch } from "./history.ts";
import type { Hub } from "./hub.ts";
import type { Asked } from "./message_rows.ts";
import { Recent } from "./recent.ts";
import { replayed } from "./replay.ts";

/** How long a request_id names one message. */
const IDEMPOTENT_MS = 600_000;
const TITLE_CHARS = 60;

/** A message of a user, to be answered. */
export interface Send {
  readonly request_id?: string | null;
  /** null: a new conversation, with `system` and `consent`. */
  readonly conversation_id: string | null;
  /** The message before it; undefined: the end of what is shown. */
  readonly parent_id?: string | null;
  readonly text: string;
  readonly model?: string;
  readonly params?: Params;
  readonly system?: string | null;
  readonly consent?: boolean;
  /** Of a new conversation: the notice that it is about. */
  readonly notice_id?: string | null;
  /** Whether the user's documents are asked too; default `auto`. */
  readonly retrieve?: Retrieve;
}

/** An answer to be written. */
export interface Planned {
  readonly userId: string;
  readonly accepted: ChatAccepted;
  readonly arm: Assigned | null;
  readonly events: readonly AppEvent[];
  readonly blind?: boolean;
  readonly turns: readonly Turn[];
  readonly params: Params;
  readonly continues?: Message;
  readonly grounding?: Grounding | null;
}

interface ConversingOptions {
  readonly writer: string;
  readonly budgets?: BudgetSettings;
  readonly searches: Searches;
  /** Told of the conversation of each answer that was kept whole. */
  readonly kept: (conversationId: string) => void;
}

/** Takes messages of users, keeps them, and has them answered. */
export class Conversing {
  /** The `ServerRun` whose answers these are. */
  readonly writer: string;
  readonly #store: Store;
  readonly #source: AnswerSource;
  readonly #hub: Hub;
  readonly #times: typeof TIMES;
  readonly #rows: AnswerRows;
  readonly #experiments: Experiments;
  readonly #sessions: Sessions;
  readonly #searches: Searches;
  readonly #budgets: Budgets;
  readonly #running = new Map<string, Generation>();
  readonly #recent = new Recent<ChatAccepted>(IDEMPOTENT_MS);

  constructor(
    experiments: Experiments,
    source: AnswerSource,
    hub: Hub,
    { writer, budgets = {}, searches, kept, ...times }: typeof TIMES & ConversingOptions,
  ) {
    this.writer = writer;
    this.#store = experiments.store;
    this.#experiments = experiments;
    this.#source = source;
    this.#hub = hub;
    this.#times = times;
    this.#rows = answerRows(this.#store, kept);
    this.#sessions = new Sessions(this.#store);
    this.#searches = searches;
    this.#budgets = new Budgets(this.#store, budgets);
  }

  /** The answers of a user that are being written. */
  running(userId: string): Generation[] {
    return [...this.#running.values()].filter(({ options }) => options.userId === userId);
  }

  /** The same request_id within 10 minutes is the same message. @throws AppError, before anything is kept. */
  send(userId: string, send: Send): Promise<ChatAccepted> {
    return this.#once(userId, send.request_id, () => this.#send(userId, send));
  }

  #once(userId: string, requestId: string | null | undefined, make: () => Promise<ChatAccepted>) {
    return requestId == null ? make() : this.#recent.get(`${userId} ${requestId}`, make);
  }

  async #send(userId: string, send: Send): Promise<ChatAccepted> {
    const { conversation_id, text, params = {} } = send;
    if (text === "") throw new AppError(422, "empty_message", "text: must not be empty", "text");
    const branch = await (conversation_id === null
      ? beginning(this.#store, send)
      : this.#branchFor(userId, send));
    const model = await this.#modelFor(userId, send.model ?? branch.model);
    const arm = await this.#experiments.armFor(model, userId, branch.conversationId);
    await this.admit(userId, arm?.model ?? model);
    const turn: Turn = { role: "user", content: text.replaceAll("\0", "\ufffd") };
    const asked = { ...branch, turns: [...branch.turns, turn] };
    const { context, grounding } = await groundedContext(this.#searches, this.#source, {
      ...{ userId, branch: asked, model: arm?.model ?? model, params, retrieve: send.retrieve ?? "auto" },
    });
    const ids = { request_id: send.request_id ?? null, conversation_id: branch.conversationId };
    const accepted = acceptedOf({ ...ids, user_message_id: newId(), model, arm }, context);
    const now = Date.now();
    try {
      await this.#keep(userId, send, branch, turn, accepted, now, grounding);
    } catch (error) {
      // Sent before the server was started again, or before the ten minutes began.
      if ((error as { code?: string }).code !== "store_unique" || send.request_id == null) throw error;
      const known = await this.#acceptedBefore(userId, send.request_id);
      if (known === null) return this.#send(userId, send);
      return known;
    }
    const events = await this.sentEvents(userId, accepted, branch.model, now);
    const told = this.begin({ userId, accepted, arm, events, turns: context.turns, params, grounding });
    const conversation = conversation_id === null ? begunBy(send, told, turn, now) : null;
    if (conversation)
      this.#hub.publish(userId, { type: "conversation.update", conversation }, conversation.id);
    return told;
  }

  /** The events of a message that was kept. */
  async sentEvents(
    userId: string,
    { conversation_id, user_message_id, message_id, model, arm }: ChatAccepted,
    before: string | null,
    at: number,
  ): Promise<AppEvent[]> {
    const session = await this.#sessions.at(userId, at);
    const common = { at, userId, sessionId: session.id, conversationId: conversation_id, model };
    return [
      ...(session.begins ? [{ ...common, kind: "session_start" } as const] : []),
      ...(before !== null && before !== model ? [{ ...common, kind: "model_switch" } as const] : []),
      { ...common, kind: "message_sent", messageId: user_message_id },
      { ...common, kind: "answer_started", messageId: message_id, arm },
    ];
  }

  /** Checks what a user has left for today. @throws AppError 429. */
  admit(userId: string, model: string): Promise<void> {
    const paid = this.#source.listed?.().some(({ name }) => name === model) ?? false;
    return this.#budgets.check(userId, paid);
  }

  async #modelFor(userId: string, asked: string | null | undefined): Promise<string> {
    const own = await this.#source.own?.(userId, asked ?? null);
    const model = own ?? asked ?? this.#source.models()[0];
    if (model === undefined)
      throw new AppError(404, "model_not_found", "no model here answers: serve one that writes", "model");
    return model;
  }

  async #branchFor(userId: string, { conversation_id, parent_id, model }: Send): Promise<Branch> {
    // Stopped a moment ago: its row is being written.
    const before = this.#running.get(parent_id ?? "");
    if (before?.ending) await before.ended;
    const lengths = (model === undefined ? this.#source.models() : [model]).map((one) =>
      this.#source.contextLength(one),
    );
    const branch = await readBranch(this.#store, userId, {
      conversationId: conversation_id!,
      ...(parent_id === undefined ? {} : { end: parent_id }),
      contextLength: Math.max(1, ...lengths),
    });
    if (branch.end?.status === "streaming")
      throw new AppError(
        409,
        "still_answering",
        "the answer before is still being written: wait, or stop it",
        "parent_id",
      );
    return branch;
  }

  async #keep(
    userId: string,
    send: Send,
    branch: Branch,
    { content }: Turn,
    accepted: ChatAccepted,
    now: number,
    grounding: Grounding | null,
  ): Promise<void> {
    const { conversation_id, user_message_id: asked, message_id: answer, model, arm, trimmed } = accepted;
    const title = titleOf(content);
    const kept: Asked = { params: send.params ?? {}, trimmed, writer: this.writer };
    await this.#store.transaction(async (tx) => {
      if (send.conversation_id === null)
        await tx.run(
          "INSERT INTO conversation (id, user_id, title, model, system, leaf_id, consent, created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
          [conversation_id, userId, title, model, branch.system, answer, send.consent ?? false, now, now],
        );
      if (send.conversation_id === null && branch.notice)
        await tx.run("INSERT INTO conversation_notice (conversation_id, notice_id) VALUES (?, ?)", [
          conversation_id,
          branch.notice,
        ]);
      await tx.run(
        "INSERT INTO message (id, conversation_id, user_id, parent_id, role, content, status, request_id, model, experiment_arm, params, created_at) VALUES (?, ?, ?, ?, 'user', ?, 'complete', ?, NULL, NULL, NULL, ?), (?, ?, ?, ?, 'assistant', '', 'streaming', NULL, ?, ?, ?, ?)",
        [
          ...[asked, conversation_id, userId, branch.end?.id ?? null, content, send.request_id ?? null, now],
          ...[answer, conversation_id, userId, asked, model, arm, JSON.stringify(kept), now],
        ],
      );
      if (grounding !== null) await keepSources(tx, answer, grounding);
      if (send.conversation_id !== null)
        await tx.run(
          "UPDATE conversation SET leaf_id = ?, model = ?, updated_at = ?, title = COALESCE(title, CAST(? AS TEXT)) WHERE id = ?",
          [answer, model, now, title, conversation_id],
        );
    });
  }

  /** What was accepted under a request_id that the store knows; null, and the name is free, where that was long ago. */
  async #acceptedBefore(userId: string, requestId: string): Promise<ChatAccepted | null> {
    const [found] = await this.#store.all<{
      asked: string;
      answer: string;
      conversation_id: string;
      model: string;
      arm: string | null;
      params: string;
      created_at: number;
    }>(
      "SELECT q.id AS asked, a.id AS answer, a.conversation_id, a.model, a.experiment_arm AS arm, a.params, a.created_at FROM message q JOIN message a ON a.parent_id = q.id WHERE q.user_id = ? AND q.request_id = ? ORDER BY a.id LIMIT 1",
      [userId, requestId],
    );
    if (found !== undefined && Date.now() - found.created_at < IDEMPOTENT_MS)
      return {
        ...{ type: "chat.accepted", request_id: requestId, conversation_id: found.conversation_id },
        ...{ user_message_id: found.asked, message_id: found.answer, model: found.model, arm: found.arm },
        trimmed: (JSON.parse(found.params) as Asked).trimmed,
      };
    await this.#store.run("UPDATE message SET request_id = NULL WHERE user_id = ? AND request_id = ?", [
      userId,
      requestId,
    ]);
    return null;
  }

  /** Another answer beside one. @throws AppError 404, 409 for what is no answer. */
  regenerate(
    userId: string,
    messageId: string,
    { request_id, model, params }: { request_id?: string; model?: string; params?: Params },
  ): Promise<ChatAccepted> {
    return this.#once(userId, request_id, async () => {
      const answer = await this.#answer(userId, messageId);
      const chosen = await this.#modelFor(userId, model ?? answer.model);
      const given = params ?? answer.params ?? {};
      const branch = await this.#branchOf(userId, answer, answer.parent_id, chosen);
      const { conversation_id, parent_id } = answer;
      const arm = await this.#experiments.armFor(chosen, userId, conversation_id);
      await this.admit(userId, arm?.model ?? chosen);
      const retrieve = answer.citations.length > 0 ? "on" : "off";
      const { context, grounding } = await groundedContext(this.#searches, this.#source, {
        ...{ userId, branch, model: arm?.model ?? chosen, params: given, retrieve },
      });
      const ids = { request_id: request_id ?? null, conversation_id, user_message_id: parent_id! };
      const accepted = acceptedOf({ ...ids, model: chosen, arm }, context);
      const { message_id: id, trimmed } = accepted;
      const now = Date.now();
      await this.#store.transaction(async (tx) => {
        await tx.run(
          "INSERT INTO message (id, conversation_id, user_id, parent_id, role, content, status, model, experiment_arm, params, created_at) VALUES (?, ?, ?, ?, 'assistant', '', 'streaming', ?, ?, ?, ?)",
          [
            ...[id, conversation_id, userId, parent_id, chosen, accepted.arm],
            ...[JSON.stringify({ params: given, trimmed, writer: this.writer }), now],
          ],
        );
        if (grounding !== null) await keepSources(tx, id, grounding);
        await tx.run("UPDATE conversation SET leaf_id = ?, updated_at = ? WHERE id = ?", [
          id,
          now,
          conversation_id,
        ]);
      });
      const common = { at: now, userId, conversationId: conversation_id, model: chosen };
      const events: AppEvent[] = [
        // Of the answer that was not good enough.
        { ...common, kind: "regenerate", messageId, arm: answer.experiment_arm },
        { ...common, kind: "answer_started", messageId: id, arm: accepted.arm },
      ];
      return this.begin({ userId, accepted, arm, events, turns: context.turns, params: given, grounding });
    });
  }

  /** Goes on writing an answer that was stopped, interrupted, or as long as it was allowed to be. @throws AppError 404, 409. */
  async continue(userId: string, messageId: string): Promise<ChatAccepted> {
    const answer = await this.#answer(userId, messageId);
    const { status, finish_reason } = answer;
    if (status !== "stopped" && status !== "interrupted" && finish_reason !== "length")
      throw new AppError(
        409,
        "not_continuable",
        "only an answer that was cut short can be continued: send a message, or regenerate",
      );
    const model = await this.#modelFor(userId, answer.model);
    // An answer that has no text yet is begun.
    const end = answer.content === "" ? answer.parent_id : answer.id;
    const branch = await this.#branchOf(userId, answer, end, model);
    const params = answer.params ?? {};
    const same = await this.#experiments.armFor(model, userId, answer.conversation_id);
    const arm = same?.label === answer.experiment_arm ? same : null;
    await this.admit(userId, arm?.model ?? model);
    const retrieve = answer.citations.length > 0 ? "auto" : "off";
    const { context, grounding } = await groundedContext(this.#searches, this.#source, {
      ...{ userId, branch, model: arm?.model ?? model, params, retrieve },
    });
    await this.#store.transaction(async (tx) => {
      const changed = await tx.run(
        "UPDATE message SET status = 'streaming', params = ? WHERE id = ? AND status = ?",
        [JSON.stringify({ params, trimmed: context.trimmed, writer: this.writer }), messageId, status],
      );
      if (changed === 0) throw new AppError(409, "still_answering", "this answer is being written already");
      if (grounding !== null) await keepSources(tx, messageId, grounding);
    });
    const { conversation_id, parent_id } = answer;
    const ids = { request_id: null, conversation_id, user_message_id: parent_id! };
    const accepted = { ...acceptedOf({ ...ids, model, arm }, context), message_id: messageId };
    return this.begin({
      ...{ userId, accepted, arm, events: [], turns: context.turns, params, continues: answer, grounding },
    });
  }

  async #answer(userId: string, messageId: string): Promise<Message> {
    const answer = await new Chats(this.#store, userId).message(messageId);
    if (answer.role !== "assistant") throw notAnAnswer();
    if (answer.status === "streaming")
      throw new AppError(409, "still_answering", "this answer is still being written: wait, or stop it");
    return answer;
  }

  #branchOf(
    userId: string,
    { conversation_id }: Message,
    end: string | null,
    model: string,
  ): Promise<Branch> {
    const contextLength = this.#source.contextLength(model);
    return readBranch(this.#store, userId, { conversationId: conversation_id, end, contextLength });
  }

  /** Has an answer written whose row is there. */
  begin(planned: Planned): ChatAccepted {
    const { userId, accepted, arm, events, turns, params, continues, blind = false, grounding } = planned;
    const said = grounding?.said ?? null;
    const { conversation_id, message_id, model } = accepted;
    const tell = (event: AnswerEvent) => {
      if (isEnd(event)) this.#running.delete(message_id);
      this.#hub.publish(userId, event, conversation_id);
    };
    const before = {
      text: continues?.content ?? "",
      seq: continues?.seq ?? 0,
      completionTokens: continues?.usage?.completion_tokens ?? 0,
      costMicrousd: continues === undefined ? 0 : continues.cost_microusd,
    };
    const generation = new Generation({
      ...{
        accepted,
        userId,
        before,
        arm,
        events,
        blind,
        tell,
        source: said === null ? this.#source : saying(this.#source, said),
        sources: grounding?.sources ?? [],
        rows: this.#rows,
        times: this.#times,
      },
      request: {
        ...{ model: arm?.model ?? model, turns, params, client: userId, continues: before.text !== "" },
        ...(grounding && { question: grounding.question }),
      },
    });
    this.#running.set(message_id, generation);
    const told = blind ? { ...accepted, model: "" } : accepted;
    this.#hub.publish(userId, told, conversation_id);
    generation.begin();
    return told;
  }

  /** Ends an answer where it is; one that has ended stays as it is. @throws AppError 404. */
  async stop(userId: string, messageId: string): Promise<void> {
    const generation = this.#running.get(messageId);
    if (generation?.options.userId === userId) await generation.stop();
    else await new Chats(this.#store, userId).message(messageId);
  }

  /**
   * Tells what came of an answer after event `after`, and goes on until its end. An answer that has ended comes from its row: in
   * one piece and with its end, unless the client has that already.
   * @returns a function that ends it, its end, and whether it was still being written. @throws AppError 404.
   */
  async follow(userId: string, messageId: string, after: number, listener: AnswerListener) {
    const own = () => {
      const generation = this.#running.get(messageId);
      return generation?.options.userId === userId ? generation : undefined;
    };
    if (own() === undefined) {
      const message = await new Chats(this.#store, userId).message(messageId);
      // It may have been continued meanwhile.
      if (own() === undefined) {
        if (after !== message.seq) for (const event of replayed(message)) listener(event);
        return { unfollow: () => {}, ended: Promise.resolve(), live: false };
      }
    }
    const generation = own()!;
    const unfollow = generation.follow(after, listener);
    return { unfollow, ended: generation.ended.then(() => {}), live: true };
  }

  /** Ends all answers where they are. */
  async close(): Promise<void> {
    await Promise.all([...this.#running.values()].map((generation) => generation.stop()));
  }
}

interface Accepting
  extends Pick<ChatAccepted, "request_id" | "conversation_id" | "user_message_id" | "model"> {
  readonly arm: Assigned | null;
}

export function acceptedOf({ arm, ...of }: Accepting, { trimmed }: Context): ChatAccepted {
  return { type: "chat.accepted", ...of, message_id: newId(), arm: arm?.label ?? null, trimmed };
}

/** The conversation that a message has begun. */
function begunBy(
  { system, consent, notice_id = null }: Send,
  { conversation_id: id, model, message_id: leaf_id }: ChatAccepted,
  { content }: Turn,
  now: number,
): Conversation {
  return {
    ...{ id, title: titleOf(content), model, system: system || null, leaf_id, pinned: false },
    ...{ consent: consent ?? false, running: true, created_at: now, updated_at: now, notice_id },
  };
}

/** The first words of a conversation. */
function titleOf(text: string): string {
  const line = text.trim().replace(/\s+/g, " ");
  const cut = [...line].slice(0, TITLE_CHARS).join("");
  return cut === line ? line : `${cut}…`;
}
