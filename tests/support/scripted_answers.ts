import { Application, type ApplicationOptions } from "../../serve/app/application.ts";
import type {
  AnswerRequest,
  AnswerSource,
  RunningAnswer,
  TextListener,
} from "../../serve/app/chat/answers.ts";
import { openStore } from "../../serve/store/index.ts";

/** An answer that the test writes piece by piece. */
export class ScriptedAnswer implements RunningAnswer {
  readonly done: Promise<"stop" | "length">;
  stopped = 0;
  pieces = 0;
  end!: (reason?: "stop" | "length") => void;
  fail!: (error: Error) => void;
  readonly request: AnswerRequest;
  readonly #onText: TextListener;

  constructor(request: AnswerRequest, onText: TextListener) {
    this.request = request;
    this.#onText = onText;
    this.done = new Promise((resolve, reject) => {
      this.end = (reason = "stop") => resolve(reason);
      this.fail = reject;
    });
    this.done.catch(() => {});
  }

  say(text: string, logprobs?: readonly number[]): void {
    this.pieces++;
    this.#onText(text, logprobs);
  }

  usage() {
    return { prompt_tokens: 7, completion_tokens: this.pieces, cached_tokens: 0, estimated: false };
  }

  stop(): void {
    this.stopped++;
    this.fail(new Error("stopped"));
  }
}

/** A source whose answers tests write; a token is a word, and each turn has one more. */
export class Script implements AnswerSource {
  readonly started: ScriptedAnswer[] = [];
  contextTokens = 1000;
  /** Says these pieces by itself and ends, if any. */
  says: readonly string[] | null = null;

  /** How large its models are, where a test says so. */
  parameters?: AnswerSource["parameters"];

  models = () => ["fake", "other"];
  /** What names stand for, besides themselves. */
  versions: Record<string, string> = {};
  /** Names by which nobody answers. */
  absent: readonly string[] = [];
  /** One that is gone when it is asked, though it was there before. */
  gone: string | null = null;
  versionOf = (model: string) => (this.absent.includes(model) ? null : (this.versions[model] ?? model));
  contextLength = () => this.contextTokens;

  async count(_model: string, turns: readonly { content: string }[]): Promise<number> {
    return turns.reduce((sum, { content }) => sum + content.split(" ").length + 1, 0);
  }

  async start(request: AnswerRequest, onText: TextListener): Promise<RunningAnswer> {
    if (request.model === this.gone) throw Object.assign(new Error("it went"), { code: "model_not_found" });
    const answer = new ScriptedAnswer(request, onText);
    this.started.push(answer);
    const { says } = this;
    if (says !== null)
      queueMicrotask(() => {
        for (const piece of says) answer.say(piece);
        answer.end();
      });
    return answer;
  }

  /** The answer that was begun last; waits until it is. */
  async next(count = this.started.length + 1): Promise<ScriptedAnswer> {
    while (this.started.length < count) await new Promise((resolve) => setImmediate(resolve));
    return this.started[count - 1]!;
  }
}

/** An application over a store at `path` whose answers the test writes. */
export async function scripted(path: string, options: Partial<ApplicationOptions> = {}) {
  const source = new Script();
  const store = await openStore(`sqlite:${path}`);
  const application = await Application.open({ source, store, ...options });
  return { application, source, store };
}
