import type { ModelPool } from "../models.ts";
import type { Application, ApplicationOptions } from "./application.ts";
import type { AnswerSource } from "./chat/answers.ts";
import { type UserMode, userMode } from "./user_mode.ts";

/** The application of a server, which is opened when the first request asks for it: a server starts without a store. */
export interface ApplicationHost {
  readonly mode: UserMode;
  /** @throws KilnError where the store cannot be opened; the next request tries again. */
  open(): Promise<Application>;
  /** The application, if it was asked for before. */
  readonly opened: Promise<Application> | null;
  /** Ends its answers and closes its store, if it was opened. */
  close(): Promise<void>;
}

/**
 * The application over the models of a server, with its store where the environment says. @throws KilnError.
 * @param more who answers besides them, what that may cost, and how versions are loaded for experiments.
 */
export function applicationHost(
  models: ModelPool,
  more: Pick<ApplicationOptions, "keepArms" | "budgets"> & { readonly source?: AnswerSource },
): ApplicationHost {
  const mode = userMode();
  return hostOf(mode, async () => {
    const { Application } = await import("./application.ts");
    const { localAnswers } = await import("./chat/local_answers.ts");
    return Application.open({ mode, models, source: localAnswers(models), ...more });
  });
}

/** A host whose application `make` opens, once. */
export function hostOf(mode: UserMode, make: () => Promise<Application>): ApplicationHost {
  let opening: Promise<Application> | null = null;
  return {
    mode,
    get opened() {
      return opening;
    },
    open() {
      opening ??= make().catch((error) => {
        opening = null;
        throw error;
      });
      return opening;
    },
    close: async () => (await opening?.catch(() => null))?.close(),
  };
}
