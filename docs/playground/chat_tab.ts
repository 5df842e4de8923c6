import type { Client } from "./client.ts";
import { attempt, byId, count, dropZone, make } from "./dom.ts";
import type { OpenedModel, RunState, Turn } from "./protocol.ts";

/** The view in which a person talks with the run's model or with one from files. */
export class ChatTab {
  readonly #client: Client;
  #run: RunState | null = null;
  #opened: OpenedModel | null = null;
  #turns: Turn[] = [];
  #writing: ((piece: string) => void) | null = null;

  constructor(client: Client) {
    this.#client = client;
    for (const id of ["folder", "weights"]) {
      const input = byId<HTMLInputElement>(id);
      input.onchange = () => this.#open([...(input.files ?? [])]);
    }
    dropZone(byId("chat"), (files) => this.#open(files));
    byId("own").onclick = () => this.#use(null);
    byId("clear").onclick = () => this.#clear();
    byId("say").onsubmit = (event) => {
      event.preventDefault();
      attempt(() => (this.#writing ? this.#client.call("hush") : this.#say()));
    };
    byId("text").onkeydown = (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      byId<HTMLFormElement>("say").requestSubmit();
    };
    this.#show();
  }

  become(run: RunState | null): void {
    this.#run = run;
    // A new worker has no opened model any more.
    if (run === null) this.#opened = null;
    this.#show();
  }

  said(piece: string): void {
    this.#writing?.(piece);
  }

  #open(files: readonly File[]): void {
    if (files.length === 0) return;
    attempt(async () => {
      byId("which").textContent = "Opening …";
      try {
        this.#use(await this.#client.call("openFiles", files));
      } finally {
        this.#show();
      }
    });
  }

  #use(opened: OpenedModel | null): void {
    this.#opened = opened;
    this.#clear();
    this.#show();
  }

  #clear(): void {
    this.#turns = [];
    byId("turns").replaceChildren();
  }

  async #say(): Promise<void> {
    const text = byId<HTMLTextAreaElement>("text");
    this.#turns.push({ role: "user", content: text.value });
    byId("turns").append(make("li", { className: "user" }, text.value));
    text.value = "";
    const answer = make("li", { className: "assistant" });
    byId("turns").append(answer);
    this.#writing = (piece) => {
      answer.append(piece);
      answer.scrollIntoView({ block: "nearest" });
    };
    this.#show();
    const options = {
      maxTokens: byId<HTMLInputElement>("tokens").valueAsNumber,
      temperature: byId<HTMLInputElement>("temperature").valueAsNumber,
      seed: Date.now() % 2 ** 31,
    };
    try {
      const content = await this.#client.call("write", this.#opened ? "opened" : "run", this.#turns, options);
      if (content === "") answer.append("(the model ended its text at once)");
      this.#turns.push({ role: "assistant", content });
    } catch (error) {
      // What was not answered is not part of the next prompt.
      this.#turns.pop();
      answer.remove();
      throw error;
    } finally {
      this.#writing = null;
      this.#show();
    }
  }

  #show(): void {
    const opened = this.#opened;
    const names = opened
      ? `${opened.name}: ${count(opened.parameters)} parameters, ${count(opened.context)} tokens of context.`
      : this.#run
        ? "The model of this run."
        : "Train a model first, or drop a model's folder (Hugging Face layout) or a model.safetensors here.";
    const how =
      opened?.chats || !(opened || this.#run) ? "" : " It has no chat template: it goes on with the text.";
    byId("which").textContent = names + how;
    byId("own").hidden = !opened || !this.#run;
    const send = byId<HTMLButtonElement>("send");
    send.textContent = this.#writing ? "Stop" : "Send";
    send.disabled = !opened && !this.#run;
    // An empty text must not keep the button from stopping.
    byId<HTMLTextAreaElement>("text").required = !this.#writing;
  }
}
