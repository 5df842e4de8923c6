import { batch, type Signal, signal } from "@preact/signals";
import type {
  ChatAccepted,
  ChatDone,
  ChatError,
  ChatNotice,
  ChatSend,
  ClientEvent,
  Conversation,
  Feedback,
  JobUpdate,
  Message,
  MessageList,
  ServerEvent,
} from "../../app/protocol.ts";
import { api, sha256 } from "./api.ts";
import {
  attempt,
  begun,
  change,
  current,
  dropConversation,
  historyLoaded,
  loadHistory,
  markRunning,
  putConversation,
  say,
} from "./history.ts";
import { Link, storeLost } from "./link.ts";
import { chosenModel, keepDraft, newConsent, newSystem, params, retrieve } from "./local.ts";
import { modelName, setModels } from "./models.ts";
import { go, place } from "./route.ts";
import { uuid } from "./uuid.ts";

/** A message as it is shown: `notice` is what was last said of how the answer comes about, `request` what was not accepted yet. */
export interface Shown extends Message {
  notice: ChatNotice["notice"] | null;
  request: ChatSend | null;
}
export type Live = Signal<Shown>;

/** The branch that is shown, and how far it is loaded. */
export const thread = signal<readonly Live[]>([]);
export const threadState = signal<"ready" | "loading" | "failed">("ready");
/** Where the page above begins; null: all of it is here. */
export const earlier = signal<string | null>(null);
const live = new Map<string, Live>();
/** Messages that wait for `chat.accepted`, by request: sent again after a lost connection, which is the same message. */
const waiting = new Map<string, { user: Live; answer: Live }>();
/** Requests whose answers were stopped before the server had begun them. */
const unwanted = new Set<string>();
/** Deltas wait here for the next frame of the screen. */
const arrived = new Map<Live, Shown>();
let frame = 0;
/** Conversations to follow beside the one that is shown. */
const watched = new Set<string>();

export const link = new Link(receive, greeting);

function greeting(): ClientEvent[] {
  const resume = [...live.values()]
    .map(latest)
    .filter(({ status, seq }) => status === "streaming" && seq > 0);
  return [
    {
      type: "hello",
      protocol: "kiln.chat.v1",
      client_id: link.clientId,
      resume: resume.map(({ id, seq }) => ({ message_id: id, after_seq: seq })),
    },
    watchEvent(),
  ];
}

const watchEvent = (): ClientEvent => ({
  type: "watch",
  conversations: [...(place.value.id ? [place.value.id] : []), ...watched],
  jobs: jobWatchers.size > 0,
});

type JobWatcher = (update: JobUpdate | null) => void;
const jobWatchers = new Set<JobWatcher>();

/** Follows the user's jobs; null: the connection is new, and something may have been missed. @returns what ends it */
export function watchJobs(watcher: JobWatcher): () => void {
  jobWatchers.add(watcher);
  link.send(watchEvent());
  return () => {
    jobWatchers.delete(watcher);
    link.send(watchEvent());
  };
}

function tellOfJobs(update: JobUpdate | null): void {
  for (const watcher of jobWatchers) watcher(update);
}

const latest = (one: Live): Shown => arrived.get(one) ?? one.peek();
const shown = (message: Message): Shown => ({ ...message, notice: null, request: null });
const isBusy = ({ status, request }: Shown): boolean => status === "streaming" || request !== null;

/** Whether an answer that is shown is being written. */
export const streaming = (): Shown | null =>
  thread.value.map((one) => one.value).find((message) => message.role === "assistant" && isBusy(message)) ??
  null;

// ---- what the server says ----

function receive(event: ServerEvent): void {
  if (event.type === "store.update") storeLost.value = event.state === "lost";
  else if (event.type === "welcome") {
    storeLost.value = false;
    setModels(event.models, event.default_model);
    void loadHistory();
    tellOfJobs(null);
    for (const { user } of waiting.values()) link.send(user.peek().request!);
    if (place.value.id) void open(place.value.id, thread.peek().length > 0);
  } else if (event.type === "chat.accepted") accepted(event);
  else if (event.type === "chat.delta") {
    const one = live.get(event.message_id);
    if (!one) return;
    const have = latest(one);
    if (event.seq <= have.seq && event.offset + event.text.length <= have.content.length) return;
    if (event.offset > have.content.length) missed(have);
    else
      later(one, {
        ...have,
        content: have.content.slice(0, event.offset) + event.text,
        seq: event.seq,
        notice: have.notice?.kind === "queued" ? null : have.notice,
      });
  } else if (event.type === "chat.notice") patch(event.message_id, { notice: event.notice });
  else if (event.type === "chat.sources") patch(event.message_id, { citations: event.citations });
  else if (event.type === "chat.done") void done(event);
  else if (event.type === "chat.error") failed(event);
  else if (event.type === "conversation.update") putConversation(event.conversation);
  else if (event.type === "conversation.deleted") dropConversation(event.conversation_id);
  else if (event.type === "job.update") tellOfJobs(event);
  else if (event.type === "model.update") setModels(event.models, event.default_model);
}

/** The last answers that were asked for again after a gap, each once per gap. */
const gaps = new Map<string, number>();
function missed({ id, seq }: Shown): void {
  if (gaps.get(id) === seq) return;
  gaps.set(id, seq);
  link.send({ type: "chat.resume", message_id: id, after_seq: seq });
}

function later(one: Live, message: Shown): void {
  arrived.set(one, message);
  frame ||= requestAnimationFrame(flush);
}

function flush(): void {
  cancelAnimationFrame(frame);
  frame = 0;
  batch(() => {
    for (const [one, message] of arrived) one.value = message;
  });
  arrived.clear();
}

function patch(id: string, values: Partial<Shown>): Live | null {
  const one = live.get(id);
  if (!one) return null;
  flush();
  one.value = { ...one.peek(), ...values };
  return one;
}

/** An answer begins: of a message sent here, in another tab, or asked for again. */
function accepted(event: ChatAccepted): void {
  const mine = event.request_id === null ? undefined : waiting.get(event.request_id);
  begun(event.conversation_id, event.model);
  if (mine) {
    waiting.delete(event.request_id!);
    settle(mine, event);
    if (unwanted.delete(event.request_id!)) link.send({ type: "chat.stop", message_id: event.message_id });
  } else if (live.has(event.message_id)) {
    if (latest(live.get(event.message_id)!).status !== "streaming")
      patch(event.message_id, { status: "streaming", error: null, finish_reason: null });
  } else if (event.conversation_id === place.value.id) showAnswer(event);
}

function settle({ user, answer }: { user: Live; answer: Live }, event: ChatAccepted): void {
  const { conversation_id, user_message_id, message_id } = event;
  const isNew = user.peek().conversation_id === "";
  keepDraft(isNew ? null : conversation_id, "");
  const common = { conversation_id, request: null };
  user.value = { ...user.peek(), ...common, id: user_message_id, siblings: [] };
  answer.value = {
    ...{ ...answer.peek(), ...common, id: message_id, parent_id: user_message_id, siblings: [message_id] },
    ...{ status: "streaming", trimmed: event.trimmed, model: event.model, experiment_arm: event.arm },
  };
  live.set(user_message_id, user).set(message_id, answer);
  if (isNew && thread.peek().includes(user)) go("chat", conversation_id, true);
  link.send(watchEvent());
  const edited = thread.peek().includes(user) && user.peek().siblings.length === 0 && !isNew;
  if (edited) void refreshSiblings(conversation_id);
}

/** How many branches there are is known to the server alone. */
async function refreshSiblings(conversation: string): Promise<void> {
  const list = await fetchThread(conversation).catch(() => null);
  for (const { id, siblings } of list?.messages ?? []) patch(id, { siblings });
}

function showAnswer(event: ChatAccepted): void {
  const at = thread.peek().findIndex((one) => one.peek().id === event.user_message_id);
  if (at < 0) {
    void open(event.conversation_id, true);
    return;
  }
  const before = thread.peek()[at + 1]?.peek();
  const answer = signal(
    shown({
      ...blank("assistant", event.conversation_id, event.user_message_id),
      ...{ id: event.message_id, model: event.model, trimmed: event.trimmed, experiment_arm: event.arm },
      siblings: [...(before?.siblings ?? []), event.message_id],
    }),
  );
  live.set(event.message_id, answer);
  thread.value = [...thread.peek().slice(0, at + 1), answer];
}

async function done(event: ChatDone): Promise<void> {
  markRunning(event.conversation_id, false);
  const { type: _, message_id, text_sha256, ...rest } = event;
  const status = rest.finish_reason === "abort" ? "stopped" : "complete";
  const one = patch(message_id, { ...rest, status, error: null });
  if (!one) return;
  const hash = await sha256(one.peek().content);
  if (hash !== null && hash !== text_sha256 && event.conversation_id === place.value.id)
    await open(event.conversation_id, false);
}

function failed(event: ChatError): void {
  const { code, message, retryable } = event;
  const mine = event.request_id === null ? undefined : waiting.get(event.request_id);
  if (event.conversation_id) markRunning(event.conversation_id, false);
  const error = { code, message, retryable };
  if (mine) {
    waiting.delete(event.request_id!);
    unwanted.delete(event.request_id!);
    mine.answer.value = { ...mine.answer.peek(), status: "error", error };
  } else if (event.message_id) {
    const status = code === "interrupted" ? "interrupted" : "error";
    patch(event.message_id, { status, error });
  } else say(message);
}

// ---- what a person does ----

const fetchThread = (id: string, before = "") =>
  api<MessageList>("GET", `/api/conversations/${id}/messages?limit=50${before}`);

function toLive(message: Message, kept: boolean): Live {
  const known = live.get(message.id);
  const next = shown(message);
  if (!known) {
    const one = signal(next);
    live.set(message.id, one);
    return one;
  }
  // A row is written every half a second: what came over the socket may be ahead of it.
  const have = latest(known);
  const ahead =
    kept && have.status === "streaming" && message.status === "streaming" && have.seq > message.seq;
  arrived.delete(known);
  known.value = ahead ? have : { ...next, notice: have.notice };
  return known;
}

/** Shows a conversation. `kept`: it is shown already, and what is there stays until the answer comes. */
export async function open(id: string, kept = false): Promise<void> {
  if (!kept) {
    thread.value = [];
    threadState.value = "loading";
    live.clear();
  }
  try {
    const list = await fetchThread(id);
    if (place.value.id !== id) return;
    // It may be an old one, which the list does not have.
    void historyLoaded().then(() => {
      if (!current.value && place.value.id === id)
        void attempt(() => api<Conversation>("GET", `/api/conversations/${id}`).then(putConversation));
    });
    flush();
    const pending = thread.peek().filter((one) => one.peek().request !== null);
    batch(() => {
      thread.value = [...list.messages.map((message) => toLive(message, kept)), ...pending];
      earlier.value = list.before;
      threadState.value = "ready";
    });
    link.send(watchEvent());
    for (const { id: message_id, status, seq } of list.messages)
      if (status === "streaming")
        link.send({
          type: "chat.resume",
          message_id,
          after_seq: Math.max(seq, latest(live.get(message_id)!).seq),
        });
  } catch {
    if (place.value.id === id && !kept) threadState.value = "failed";
  }
}

/** Shows the empty page of a new conversation. */
export function openNew(): void {
  live.clear();
  thread.value = [];
  earlier.value = null;
  threadState.value = "ready";
}

export async function loadEarlier(): Promise<void> {
  const id = place.value.id;
  if (!id || !earlier.value) return;
  const before = earlier.value;
  const list = await fetchThread(id, `&before=${encodeURIComponent(before)}`).catch(() => null);
  if (!list || place.value.id !== id || earlier.value !== before) return;
  thread.value = [...list.messages.map((message) => toLive(message, true)), ...thread.peek()];
  earlier.value = list.before;
}

function blank(role: Message["role"], conversation_id: string, parent_id: string | null): Message {
  const none = { model: null, model_version: null, provider: null, experiment_arm: null, params: null };
  const unknown = {
    usage: null,
    cost_microusd: null,
    ttft_ms: null,
    total_ms: null,
    tokens_per_second: null,
  };
  return {
    ...{ id: uuid(), conversation_id, parent_id, role, content: "", siblings: [], citations: [], seq: 0 },
    ...{
      ...none,
      ...unknown,
      mean_logprob: null,
      finish_reason: null,
      error: null,
      trimmed: null,
      feedback: null,
    },
    ...{ status: role === "assistant" ? "streaming" : "complete", created_at: Date.now() },
  };
}

/** Sends a message after `parent`, by default after the last one. False: there is nobody to send it to. */
export function send(text: string, parent: string | null = thread.peek().at(-1)?.peek().id ?? null): boolean {
  const id = place.value.id;
  const model = modelName();
  if (model === null) return false;
  const request: ChatSend = {
    ...{ type: "chat.send", request_id: uuid(), conversation_id: id, parent_id: parent, text, model },
    ...{ params: params.value, retrieve: retrieve.value },
    ...(id === null && {
      system: newSystem.value || null,
      consent: newConsent.value,
      notice_id: place.value.about,
    }),
  };
  const user = signal({ ...shown(blank("user", id ?? "", parent)), content: text, request });
  const answer = signal({ ...shown(blank("assistant", id ?? "", null)), model, request });
  if (!link.send(request)) return false;
  waiting.set(request.request_id, { user, answer });
  const at = thread.peek().findIndex((one) => one.peek().id === parent);
  thread.value = [...thread.peek().slice(0, at + 1), user, answer];
  return true;
}

/** Sends what failed again; an answer that was begun is asked for again instead. */
export function retry({ request, id }: Shown): void {
  if (request === null) void regenerate(id);
  else send(request.text, request.parent_id);
}

export function stop(): void {
  const message = streaming();
  if (message?.request) unwanted.add(message.request.request_id);
  else if (message) link.send({ type: "chat.stop", message_id: message.id });
}

async function ask(id: string, how: "regenerate" | "continue", body?: unknown): Promise<void> {
  try {
    const event = await api<ChatAccepted>("POST", `/api/messages/${id}/${how}`, body);
    accepted(event);
    const { status, seq } = latest(live.get(event.message_id)!);
    if (status === "streaming")
      link.send({ type: "chat.resume", message_id: event.message_id, after_seq: seq });
  } catch (error) {
    say((error as Error).message);
  }
}

export const regenerate = (id: string, model = modelName()): Promise<void> =>
  ask(id, "regenerate", { request_id: uuid(), ...(model && { model }), params: params.value });
export const goOn = (id: string): Promise<void> => ask(id, "continue");

/** Shows another branch. */
export async function showBranch(message: string): Promise<void> {
  const id = place.value.id;
  if (id && (await change(id, { leaf_id: message }))) await open(id, true);
}

export function chooseModel(name: string): void {
  chosenModel.value = name;
  const { id } = place.value;
  if (id && current.value?.model !== name) void change(id, { model: name });
}

/** Follows the answers of a comparison, which are in no thread. */
export function follow(
  conversation: string,
  answers: { message_id: string; model: string | null }[],
): Live[] {
  watched.add(conversation);
  link.send(watchEvent());
  return answers.map(({ message_id, model }) => {
    const one =
      live.get(message_id) ??
      signal(shown({ ...blank("assistant", conversation, null), id: message_id, model }));
    live.set(message_id, one);
    link.send({ type: "chat.resume", message_id, after_seq: latest(one).seq });
    return one;
  });
}

export function unfollow(conversation: string): void {
  watched.delete(conversation);
  for (const [id, one] of live) if (one.peek().conversation_id === conversation) live.delete(id);
}

export function setFeedback(feedback: Feedback): void {
  patch(feedback.message_id, { feedback: feedback.rating === 0 ? null : feedback });
}
