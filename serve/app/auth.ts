import { AppError } from "./app_error.ts";
import type { User } from "./protocol.ts";
import type { UserMode } from "./user_mode.ts";
import type { Users } from "./users.ts";

/** Who asks. */
export interface Principal extends User {
  readonly scopes: readonly string[];
  /** The key that it came with; null where nobody logs in. */
  readonly keyId: string | null;
}

/** What a request shows of who sends it. */
export interface Credentials {
  readonly authorization?: string | undefined;
  readonly cookie?: string | undefined;
}

const COOKIE = "kiln_session";

/** Whom `single` serves. */
const LOCAL: Principal = {
  ...{ id: "local", name: "local", role: "admin", mode: "single", scopes: [], keyId: null },
};

/**
 * Says who asks. `single`: the one user `local`, without a login. `multi`: whoever has a token, which comes as `Authorization:
 * Bearer` or, from a browser that logged in, as a cookie that no script reads and no other site sends.
 */
export class Auth {
  readonly mode: UserMode;
  readonly #users: Users;

  constructor(users: Users, mode: UserMode) {
    this.#users = users;
    this.mode = mode;
  }

  /** @throws AppError 401. */
  async principal({ authorization, cookie }: Credentials): Promise<Principal> {
    if (this.mode === "single") {
      await this.#users.ensure(LOCAL.id, "admin");
      return LOCAL;
    }
    const token = /^Bearer +(\S+)$/i.exec(authorization ?? "")?.[1] ?? cookieOf(cookie);
    const holder = token === null ? null : await this.#users.byToken(token);
    if (holder === null)
      throw new AppError(
        401,
        "invalid_api_key",
        "missing or wrong token: send it as `Authorization: Bearer TOKEN`, or log in",
      );
    const { id, name, role, scopes, keyId } = holder;
    return { id, name, role, scopes, keyId, mode: "multi" };
  }

  /**
   * The user whom a request is about. `user_id` of a body is never believed by itself: it is the caller's own id or name, or the
   * caller's key has the scope `act_as`. In `single` it names a user below `local`, with conversations of its own.
   * @throws AppError 403 for another's, 422 for what is no name.
   */
  async userFor(principal: Principal, given: string | null | undefined): Promise<string> {
    if (given == null || given === principal.id || given === principal.name) return principal.id;
    if (!/^[\w.@+-]{1,100}$/.test(given))
      throw new AppError(422, "invalid_user", "user_id: must be letters, digits and . _ @ + -", "user_id");
    if (principal.mode === "single") {
      const id = `${LOCAL.id}/${given}`;
      await this.#users.ensure(id);
      return id;
    }
    const other = principal.scopes.includes("act_as") ? await this.#users.named(given) : null;
    if (other !== null) return other.id;
    throw new AppError(
      403,
      "user_not_allowed",
      "user_id: this is another user than yours; only a key with the scope act_as may name one that exists",
      "user_id",
    );
  }

  /** Logs a browser in. @returns the user and the cookie. @throws AppError 401, and 409 where nobody logs in. */
  async login(token: string): Promise<{ user: User; cookie: string }> {
    if (this.mode === "single")
      throw new AppError(409, "no_login", "this server has one user, who needs no login");
    const { id, name, role, mode } = await this.principal({ authorization: `Bearer ${token}` });
    const session = await this.#users.addKey(id, ["session"]);
    return {
      user: { id, name, role, mode },
      cookie: `${COOKIE}=${session.token}; ${ATTRIBUTES}; Max-Age=2592000`,
    };
  }

  /** Ends a browser's session. @returns the cookie that takes the old one away. */
  async logout({ id, keyId, scopes }: Principal): Promise<string> {
    if (keyId !== null && scopes.includes("session")) await this.#users.revokeKey(id, keyId);
    return `${COOKIE}=; ${ATTRIBUTES}; Max-Age=0`;
  }
}

const ATTRIBUTES = "Path=/; HttpOnly; SameSite=Strict";

function cookieOf(header: string | undefined): string | null {
  for (const part of (header ?? "").split(";")) {
    const [name, value] = part.trim().split("=");
    if (name === COOKIE && value) return value;
  }
  return null;
}
