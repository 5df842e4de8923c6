import { KilnError } from "../../core/errors.ts";

/** A refusal by the application, with the status that HTTP gives it. */
export class AppError extends KilnError {
  readonly status: number;
  /** The field of the request that is at fault, or null. */
  readonly param: string | null;

  /** That HTTP sends with it. */
  readonly headers: Record<string, string>;

  constructor(
    status: number,
    code: string,
    message: string,
    param: string | null = null,
    headers: Record<string, string> = {},
  ) {
    super(message, { code });
    this.headers = headers;
    this.name = "AppError";
    this.status = status;
    this.param = param;
  }
}

/** For what does not exist and for what is another's alike, so that nobody learns which ids there are. */
export const notFound = (what: string): AppError =>
  new AppError(404, "not_found", `there is no such ${what}: check its name or id; it may have been deleted`);

/** For what is asked of an answer and is a person's message. */
export const notAnAnswer = (): AppError =>
  new AppError(409, "not_an_answer", "this message is no answer: give the id of one");
