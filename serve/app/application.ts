import { logError } from "../log_error.ts";
import { ModelPool } from "../models.ts";
import { type Blobs, type OpenStore, openStore } from "../store/index.ts";
import { Auth } from "./auth.ts";
import type { BudgetSettings } from "./budgets.ts";
import type { AnswerSource } from "./chat/answers.ts";
import { Chats, emptyBin } from "./chat/chats.ts";
import { Conversing } from "./chat/conversing.ts";
import { TIMES } from "./chat/generation.ts";
import { Hub } from "./chat/hub.ts";
import { conversationLogPath } from "./collected.ts";
import { ConversationLog } from "./conversation_log.ts";
import { encoderOf } from "./documents/encoder.ts";
import { Documents } from "./documents/index.ts";
import { Experiments, type ExperimentsOptions } from "./experiments/experiments.ts";
import { Jobs } from "./jobs/index.ts";
import { PersonalAnswers } from "./jobs/personal_answers.ts";
import { ServerRun } from "./server_run.ts";
import { type UserMode, userMode } from "./user_mode.ts";
import { Users } from "./users.ts";

export interface ApplicationOptions extends Pick<ExperimentsOptions, "registry" | "keepArms"> {
  readonly source: AnswerSource;
  /** The models that people may adapt; default: none. */
  readonly models?: ModelPool;
  /** Default: where the environment says. */
  readonly store?: OpenStore;
  /** Default: where the environment says. */
  readonly blobs?: Blobs;
  readonly mode?: UserMode;
  readonly times?: Partial<typeof TIMES>;
  readonly budgets?: BudgetSettings;
}

/** What a server does besides answering requests: it knows people and keeps their conversations. */
export class Application {
  readonly store: OpenStore;
  readonly users: Users;
  readonly auth: Auth;
  readonly hub = new Hub();
  readonly source: AnswerSource;
  readonly experiments: Experiments;
  readonly #log: ConversationLog;
  readonly conversing: Conversing;
  readonly documents: Documents;
  readonly jobs: Jobs;
  readonly personal: PersonalAnswers;
  readonly #run: ServerRun;
  #asking: NodeJS.Timeout | undefined;

  private constructor(
    store: OpenStore,
    { mode = userMode(), times, blobs, budgets = {}, models = new ModelPool(), ...rest }: ApplicationOptions,
  ) {
    this.store = store;
    store.onConnection = (state, reason) => this.#connection(state, reason);
    this.#run = new ServerRun(store);
    this.personal = new PersonalAnswers(models, rest.source);
    const { source } = this.personal;
    this.source = source;
    this.jobs = new Jobs(store, models, blobs);
    this.users = new Users(store);
    this.auth = new Auth(this.users, mode);
    this.experiments = new Experiments(store, rest);
    this.documents = new Documents(store, blobs, encoderOf(models));
    const { searches } = this.documents;
    this.#log = new ConversationLog(store, conversationLogPath(store));
    this.conversing = new Conversing(this.experiments, source, this.hub, {
      ...{ ...TIMES, ...times, budgets, searches, writer: this.#run.id },
      kept: (id) => this.#log.note(id),
    });
  }

  /** Opens the store, marks the answers that runs which are gone left unfinished, and empties the bin of what is old. */
  static async open(options: ApplicationOptions): Promise<Application> {
    const store = options.store ?? (await openStore());
    try {
      const application = new Application(store, options);
      await application.#run.begin();
      await emptyBin(store);
      await application.documents.resume();
      await application.jobs.resume();
      return application;
    } catch (error) {
      await store.close();
      throw error;
    }
  }

  /** Says that the database was lost, and asks for it each second, so that its return is said too. */
  #connection(state: "lost" | "back", reason: string): void {
    logError(
      state === "lost"
        ? `the database is lost (${reason}): what is asked of it waits`
        : "the database is back",
    );
    this.hub.broadcast({ type: "store.update", state });
    clearInterval(this.#asking);
    const ask = () => void this.store.all("SELECT 1 AS one").catch(() => {});
    if (state === "lost") this.#asking = setInterval(ask, 1000).unref();
  }

  /** The conversations of one user. */
  chats(userId: string): Chats {
    return new Chats(this.store, userId, this.hub, (id) => this.#log.note(id));
  }

  /** Ends the answers that are being written where they are, and what is being read, and closes the store. */
  async close(): Promise<void> {
    await Promise.all([this.conversing.close(), this.documents.close(), this.jobs.close()]);
    this.source.close?.();
    clearInterval(this.#asking);
    await this.#run.close();
    await this.#log.close();
    await this.store.close();
  }
}
