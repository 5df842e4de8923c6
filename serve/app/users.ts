import { createHash, randomBytes } from "node:crypto";
import { newId, type Store } from "../store/index.ts";
import { AppError, notFound } from "./app_error.ts";
import type { ApiKey, NewKey, Settings, SettingsPatch, User, UserAccount, UserPatch } from "./protocol.ts";

type Role = User["role"];

const isName = /^[\w.@+-]{1,100}$/;

/** A person or program as the store has it. */
export interface Account {
  readonly id: string;
  readonly name: string;
  readonly role: Role;
}

/** An account, and what the token that named it may do. */
export interface Holder extends Account {
  readonly keyId: string;
  readonly scopes: readonly string[];
}

/** What a key is good for besides its user. `session`: a browser that logged in; `act_as`: to name another in `user_id`. */
type Scope = "session" | "act_as";

const hashOf = (token: string) => createHash("sha256").update(token).digest("hex");

/** Accounts and their keys. A token is kept as its SHA-256 alone: it has 256 random bits, which nobody guesses. */
export class Users {
  readonly #store: Store;
  readonly #known = new Set<string>();

  constructor(store: Store) {
    this.#store = store;
  }

  /** Makes sure that there is an account with this id, which is its name too. */
  async ensure(id: string, role: Role = "member"): Promise<void> {
    if (this.#known.has(id)) return;
    await this.#store.run(
      "INSERT INTO user_account (id, name, role, created_at) VALUES (?, ?, ?, ?) ON CONFLICT (id) DO NOTHING",
      [id, id, role, Date.now()],
    );
    this.#known.add(id);
  }

  /** @throws AppError for a name that cannot be one, or is taken. */
  async add(name: string, role: Role): Promise<UserAccount> {
    if (!isName.test(name))
      throw new AppError(422, "invalid_user", "name: must be letters, digits and . _ @ + -", "name");
    const account = { id: newId(), name, role, created_at: Date.now(), disabled_at: null };
    const added = await this.#store.run(
      "INSERT INTO user_account (id, name, role, created_at) VALUES (?, ?, ?, ?) ON CONFLICT (name) DO NOTHING",
      [account.id, name, role, account.created_at],
    );
    if (added === 0)
      throw new AppError(409, "name_taken", `there is a user ${name} already: choose another name`, "name");
    return account;
  }

  async named(name: string): Promise<Account | null> {
    const [found] = await this.#store.all<Account>(
      "SELECT id, name, role FROM user_account WHERE name = ? AND disabled_at IS NULL",
      [name],
    );
    return found ?? null;
  }

  /** Every account, those that were disabled too; oldest first. */
  async list(): Promise<UserAccount[]> {
    return this.#store.all<UserAccount>(
      "SELECT id, name, role, created_at, disabled_at FROM user_account ORDER BY created_at, id",
    );
  }

  /** An account by its id or name, a disabled one too. @throws AppError 404. */
  async find(given: string): Promise<UserAccount> {
    const found = (await this.list()).find(({ id, name }) => id === given || name === given);
    if (found === undefined) throw notFound("user");
    return found;
  }

  /**
   * Changes an account. A disabled one keeps what it has, and its tokens are good for nothing until it is enabled.
   * @throws AppError 404; 409 for the last admin, without whom nobody could undo it.
   */
  change(given: string, { role, disabled }: UserPatch): Promise<UserAccount> {
    return this.#store.transaction(async (tx) => {
      const users = new Users(tx);
      const { id, name, ...before } = await users.find(given);
      const after = {
        role: role ?? before.role,
        disabled_at: disabled === undefined ? before.disabled_at : disabled ? Date.now() : null,
      };
      await tx.run("UPDATE user_account SET role = ?, disabled_at = ? WHERE id = ?", [
        ...[after.role, after.disabled_at, id],
      ]);
      const left = (await users.list()).some((one) => one.role === "admin" && one.disabled_at === null);
      if (!left && before.role === "admin" && before.disabled_at === null)
        throw new AppError(409, "last_admin", `${name} is the only admin: make another one first`);
      return { id, name, ...before, ...after };
    });
  }

  async settings(id: string): Promise<Settings> {
    const [row] = await this.#store.all<{ settings: string }>(
      "SELECT settings FROM user_account WHERE id = ?",
      [id],
    );
    return row === undefined ? {} : JSON.parse(row.settings);
  }

  changeSettings(id: string, patch: SettingsPatch): Promise<Settings> {
    return this.#store.transaction(async (tx) => {
      const all = Object.entries({ ...(await new Users(tx).settings(id)), ...patch });
      const settings = Object.fromEntries(all.filter(([, value]) => value !== null)) as Settings;
      await tx.run("UPDATE user_account SET settings = ? WHERE id = ?", [JSON.stringify(settings), id]);
      return settings;
    });
  }

  /** A new key of an account, with its token, which is not kept. */
  async addKey(userId: string, scopes: readonly Scope[] = []): Promise<NewKey> {
    const token = `kiln-${randomBytes(32).toString("base64url")}`;
    const key = { id: newId(), prefix: token.slice(0, 11), scopes: [...scopes], created_at: Date.now() };
    await this.#store.run(
      "INSERT INTO api_key (id, user_id, hash, prefix, scopes, created_at) VALUES (?, ?, ?, ?, ?, ?)",
      [key.id, userId, hashOf(token), key.prefix, JSON.stringify(scopes), key.created_at],
    );
    return { ...key, last_used_at: null, token };
  }

  /** The keys of an account that are good, but for those of its browsers; newest first. */
  async keys(userId: string): Promise<ApiKey[]> {
    const rows = await this.#store.all<Omit<ApiKey, "scopes"> & { scopes: string }>(
      "SELECT id, prefix, scopes, created_at, last_used_at FROM api_key WHERE user_id = ? AND revoked_at IS NULL ORDER BY id DESC",
      [userId],
    );
    return rows
      .map(({ scopes, ...row }) => ({ ...row, scopes: JSON.parse(scopes) as string[] }))
      .filter(({ scopes }) => !scopes.includes("session"));
  }

  /** @throws AppError for a key that is not this account's. */
  async revokeKey(userId: string, keyId: string): Promise<void> {
    const changed = await this.#store.run(
      "UPDATE api_key SET revoked_at = ? WHERE id = ? AND user_id = ? AND revoked_at IS NULL",
      [Date.now(), keyId, userId],
    );
    if (changed === 0) throw notFound("key");
  }

  /** Whose token this is; null for one that is unknown or revoked, and where the account is disabled. */
  async byToken(token: string): Promise<Holder | null> {
    const [found] = await this.#store.all<
      Account & { key_id: string; scopes: string; last_used_at: number | null }
    >(
      "SELECT u.id, u.name, u.role, k.id AS key_id, k.scopes, k.last_used_at FROM api_key k JOIN user_account u ON u.id = k.user_id WHERE k.hash = ? AND k.revoked_at IS NULL AND u.disabled_at IS NULL",
      [hashOf(token)],
    );
    if (found === undefined) return null;
    const { key_id: keyId, scopes, last_used_at, ...account } = found;
    // To the minute: a write for each request would cost more than the request.
    if (Date.now() - (last_used_at ?? 0) > 60_000)
      await this.#store.run("UPDATE api_key SET last_used_at = ? WHERE id = ?", [Date.now(), keyId]);
    return { ...account, keyId, scopes: JSON.parse(scopes) as string[] };
  }
}
