import { signal } from "@preact/signals";
import type {
  ChatBody,
  ClientEvent,
  ModelList,
  ProtocolName,
  ServerEvent,
  User,
  Welcome,
} from "../../app/protocol.ts";
import { ApiError, api, needsLogin, request } from "./api.ts";
import { events } from "./sse.ts";
import { uuid } from "./uuid.ts";

const protocol: ProtocolName = "kiln.chat.v1";
const delays = [500, 1000, 2000, 4000, 8000];
/** A connection without an answer to a ping for so long is dead, as after a change of network. */
const pingMs = 15_000;
const patienceMs = 10_000;

export type LinkState =
  | { state: "connecting" }
  | { state: "online"; by: "socket" | "stream" }
  | { state: "offline"; retryAt: number }
  /** The server speaks a newer protocol than this page. */
  | { state: "outdated" };

/** Whether the server has lost its database for now. */
export const storeLost = signal(false);
export const linkState = signal<LinkState>({ state: "connecting" });

/** The connection to the server: a WebSocket that comes back by itself, or streams over HTTP where none gets through. */
export class Link {
  readonly #receive: (event: ServerEvent) => void;
  /** What to say first, asked at every connection. */
  readonly #greeting: () => ClientEvent[];
  readonly #client = uuid();
  #socket: WebSocket | null = null;
  #user = "";
  #attempt = 0;
  #refused = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #ping: ReturnType<typeof setTimeout> | undefined;

  constructor(receive: (event: ServerEvent) => void, greeting: () => ClientEvent[]) {
    this.#receive = receive;
    this.#greeting = greeting;
    addEventListener("online", () => this.connect());
    addEventListener("offline", () => this.#socket?.close());
  }

  get clientId(): string {
    return this.#client;
  }

  /** Connects now, whatever the countdown says. */
  connect(): void {
    if (needsLogin.value || this.#socket || linkState.value.state === "online") return;
    clearTimeout(this.#timer);
    if (linkState.value.state !== "offline") linkState.value = { state: "connecting" };
    let opened = false;
    const socket = new WebSocket(new URL("/api/chat/ws", location.href), protocol);
    this.#socket = socket;
    socket.onopen = () => {
      opened = true;
      for (const event of this.#greeting()) this.send(event);
    };
    socket.onmessage = ({ data }) => this.#heard(JSON.parse(data));
    socket.onclose = ({ code }) => {
      if (this.#socket !== socket) return;
      this.#socket = null;
      clearTimeout(this.#ping);
      if (code === 4401) needsLogin.value = true;
      else if (linkState.value.state !== "outdated") this.#lost(opened);
    };
  }

  /** Sends an event; false: there is no connection. */
  send(event: ClientEvent): boolean {
    const state = linkState.value;
    if (state.state === "online" && state.by === "stream") {
      this.#overHttp(event);
      return true;
    }
    if (this.#socket?.readyState !== WebSocket.OPEN) return false;
    this.#socket.send(JSON.stringify(event));
    return true;
  }

  #heard(event: ServerEvent): void {
    clearTimeout(this.#ping);
    this.#ping = setTimeout(() => {
      this.send({ type: "ping", t: Date.now() });
      this.#ping = setTimeout(() => this.#drop(), patienceMs);
    }, pingMs);
    if (event.type === "welcome") this.#welcomed(event);
    else this.#receive(event);
  }

  #welcomed(event: Welcome): void {
    if (event.protocol !== protocol) {
      linkState.value = { state: "outdated" };
      this.#drop();
      return;
    }
    this.#attempt = 0;
    this.#refused = 0;
    linkState.value = { state: "online", by: "socket" };
    this.#receive(event);
  }

  /** Gives a connection up without waiting for its closing handshake. */
  #drop(): void {
    const socket = this.#socket;
    this.#socket = null;
    socket?.close();
    if (linkState.value.state !== "outdated") this.#lost(true);
  }

  #lost(opened: boolean): void {
    this.#refused = opened ? 0 : this.#refused + 1;
    if (this.#refused >= 3) void this.#tryStreams();
    const wait = delays[Math.min(this.#attempt++, delays.length - 1)] * (0.8 + 0.4 * Math.random());
    linkState.value = { state: "offline", retryAt: Date.now() + wait };
    this.#timer = setTimeout(() => this.connect(), wait);
  }

  /** Three upgrades in a row failed: where plain requests get through, something between refuses WebSockets. */
  async #tryStreams(): Promise<void> {
    const asked = [api<User>("GET", "/api/me"), api<ModelList>("GET", "/api/models")] as const;
    const [user, list] = await Promise.all(asked).catch(() => []);
    // What the service worker kept does not count: only the server answers a request that it must not keep.
    if (!user || !list || !(await fetch("/health", { cache: "no-store" }).catch(() => null))?.ok) return;
    clearTimeout(this.#timer);
    const { models, default_model } = list;
    this.#user = user.id;
    linkState.value = { state: "online", by: "stream" };
    this.#receive({ type: "welcome", protocol, server_id: "", user, models, default_model, running: [] });
    for (const event of this.#greeting()) this.#overHttp(event);
  }

  #overHttp(event: ClientEvent): void {
    if (event.type === "hello")
      for (const { message_id, after_seq } of event.resume)
        this.#overHttp({ type: "chat.resume", message_id, after_seq });
    if (event.type === "chat.stop")
      void api("POST", `/api/messages/${event.message_id}/stop`).catch(() => {});
    if (event.type === "chat.resume")
      void this.#stream("GET", `/api/messages/${event.message_id}/stream?after=${event.after_seq}`);
    if (event.type === "chat.send") {
      const { type: _, text: query, ...rest } = event;
      const body: ChatBody = { ...rest, user_id: this.#user, query, stream: true };
      void this.#stream("POST", "/api/chat", body, event.request_id);
    }
  }

  async #stream(
    method: string,
    path: string,
    body?: unknown,
    requestId: string | null = null,
  ): Promise<void> {
    try {
      const response = await request(method, path, body);
      for await (const event of events(response.body!)) this.#receive(event);
    } catch (error) {
      const { code, message } =
        error instanceof ApiError ? error : new ApiError(0, "unreachable", String(error));
      if (requestId)
        this.#receive({
          ...{ type: "chat.error", request_id: requestId, conversation_id: null, message_id: null },
          ...{ seq: null, code, message, retryable: true },
        });
      linkState.value = { state: "connecting" };
      this.connect();
    }
  }
}
