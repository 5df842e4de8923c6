import { logError } from "../../log_error.ts";
import type { Store } from "../../store/index.ts";
import { type Encode, PassageIndex, type Ranker, type Stages, selfTest } from "../retrieval/index.ts";
import type { Passage } from "./document.ts";

/** A passage that was found for a question. */
export interface FoundPassage extends Passage {
  readonly name: string;
  readonly score: number;
}

export interface Found {
  readonly passages: readonly FoundPassage[];
  /** Whether the best of them says anything of what is asked. */
  readonly answered: boolean;
  readonly ranker: Ranker;
}

/** `POST /api/retrieve`. */
export interface Explained extends Found {
  readonly passages: readonly (FoundPassage & { readonly stages: Stages })[];
  readonly coverage: number;
}

interface Held {
  readonly version: number;
  readonly rows: readonly (Passage & { name: string })[];
  readonly index: PassageIndex;
  readonly ranker: Ranker;
  /** What the self-test had beside the words. */
  readonly encode: Encode | null;
  readonly bytes: number;
  /** The passages that the ranker was chosen for. */
  readonly tested: ReadonlySet<string>;
}

/** Indexes that are kept in memory: of how many people, and what their texts take. */
const MOST_USERS = 64;
const MOST_BYTES = 256e6;
/** From this many passages on, they test which ranker suits them. */
const LEAST_TESTED = 50;
/** The share of these that may come or go, a notice's among them, before it is chosen anew. */
const MOST_CHANGED = 0.2;
/** More are not given to an encoder: the first question would wait for minutes. */
const MOST_ENCODED = 5000;
/** What an encoder's vectors take beside the texts, at most: of 1,024 numbers. */
const VECTOR_BYTES = 4096;

/** Searches people's passages, with their indexes in memory; those that were used longest ago make room. */
export class Searches {
  readonly #store: Store;
  readonly #held = new Map<string, Held>();
  readonly #building = new Map<string, Promise<Held>>();

  readonly #encoder: () => Encode | null;

  /** `encoder` gives that of the server, the same one as long as its model is there. */
  constructor(store: Store, encoder: () => Encode | null = () => null) {
    this.#store = store;
    this.#encoder = encoder;
  }

  /**
   * What one user's documents and all notices say of a question, or `notice` alone, whose other passages follow then. `version` is
   * the index's newest, where it is known.
   */
  async search(
    userId: string,
    query: string,
    most: number,
    version?: number,
    notice: string | null = null,
  ): Promise<Found & Pick<Held, "index"> & { readonly numbers: readonly number[]; vector?: Float32Array }> {
    const held = await this.#indexOf(userId, notice, version ?? (await this.#versionOf(userId)));
    const { index, rows } = held;
    const vector = await index.vectorOf(query, held.ranker).catch(withoutEncoder);
    // Without a vector the words alone are searched, and the answer says so.
    const ranker = held.ranker === "encoder" && vector === undefined ? "rm3" : held.ranker;
    const found = index.search(query, most, ranker, vector);
    const answered = index.answers(query, found);
    if (notice !== null)
      for (let passage = 0; passage < rows.length && found.length < most; passage++)
        if (!found.some((one) => one.passage === passage)) found.push({ passage, score: 0 });
    return {
      ...(vector && { vector }),
      passages: found.map(({ passage, score }) => ({ ...rows[passage], score })),
      answered,
      ranker,
      index,
      numbers: found.map(({ passage }) => passage),
    };
  }

  /** The same with what each stage of the search gives, and the share of the question's weight that the best passage has. */
  async explain(userId: string, query: string, most: number): Promise<Explained> {
    const { passages, answered, ranker, index, numbers, vector } = await this.search(userId, query, most);
    const found = numbers.map((passage, i) => ({ passage, score: passages[i].score }));
    const stages = index.stages(query, found, vector);
    return {
      passages: passages.map((passage, i) => ({ ...passage, stages: stages[i] })),
      ...{ answered, ranker, coverage: found.length > 0 ? index.coverage(query, found[0]) : 0 },
    };
  }

  async #versionOf(userId: string): Promise<number> {
    const [state] = await this.#store.all<{ version: number }>(`SELECT ${versionFor("?")} AS version`, [
      userId,
    ]);
    return state!.version;
  }

  async #indexOf(userId: string, notice: string | null, version: number): Promise<Held> {
    const name = notice === null ? userId : `notice ${notice} ${userId}`;
    const held = this.#held.get(name);
    this.#held.delete(name);
    const same = held?.version === version && held.encode === this.#encoder();
    const now = same ? held : await this.#built(name, userId, notice, version, held);
    this.#held.set(name, now);
    this.#makeRoom();
    return now;
  }

  /** Who asks while an index is made waits for that one. */
  #built(
    of: string,
    userId: string,
    notice: string | null,
    version: number,
    before: Held | undefined,
  ): Promise<Held> {
    const name = `${version} ${of}`;
    const building =
      this.#building.get(name) ??
      this.#build(userId, notice, version, before).finally(() => this.#building.delete(name));
    this.#building.set(name, building);
    return building;
  }

  async #build(
    userId: string,
    notice: string | null,
    version: number,
    before: Held | undefined,
  ): Promise<Held> {
    const searched =
      notice === null
        ? "SELECT id FROM document WHERE user_id = ? UNION SELECT id FROM document WHERE notice_id IS NOT NULL"
        : "SELECT id FROM document WHERE notice_id = ?";
    const rows = await this.#store.all<Passage & { name: string }>(
      `SELECT c.id, c.document_id, c.ordinal, c.text, c.page, c.heading, c.start_char, c.end_char, d.name FROM chunk c JOIN document d ON d.id = c.document_id WHERE d.id IN (${searched}) AND d.state = 'ready' ORDER BY d.created_at, d.id, c.ordinal`,
      [notice ?? userId],
    );
    const passages = rows.map(({ document_id, text, heading, name }) => ({
      ...{ document: document_id, text },
      title: `${name.replace(/\.\w{1,5}$/, "").replace(/[_-]+/g, " ")} ${heading ?? ""}`,
    }));
    const encode = this.#encoder();
    const given = passages.length <= MOST_ENCODED ? encode : null;
    const places = before?.encode === encode ? placesIn(before, rows) : null;
    if (before && places) {
      const next = new PassageIndex(passages, given);
      const kept = next.prepareFrom(before.index, places, before.ranker).then(() => true, withoutEncoder);
      if (await kept) return { ...before, version, rows, index: next, bytes: bytesOf(rows, before.ranker) };
    }
    const test = (by: Encode | null) => selfTest(passages, 200, by);
    const found =
      passages.length < LEAST_TESTED
        ? null
        : await test(given).catch((error) => {
            withoutEncoder(error);
            return test(null);
          });
    if (found && notice === null)
      await this.#store.run(
        "UPDATE index_state SET ranker = ?, selftest = ?, built_at = ? WHERE user_id = ?",
        [found.chosen, JSON.stringify(found), Date.now(), userId],
      );
    const ranker = found?.chosen ?? "rm3";
    const index = new PassageIndex(passages, given);
    await index.prepare(ranker);
    const tested = new Set(rows.map(({ id }) => id));
    return { version, rows, index, ranker, encode, bytes: bytesOf(rows, ranker), tested };
  }

  #makeRoom(): void {
    let bytes = [...this.#held.values()].reduce((sum, each) => sum + each.bytes, 0);
    for (const [userId, each] of this.#held) {
      if (this.#held.size <= 1 || (this.#held.size <= MOST_USERS && bytes <= MOST_BYTES)) return;
      this.#held.delete(userId);
      bytes -= each.bytes;
    }
  }
}

function bytesOf(rows: Held["rows"], ranker: Ranker): number {
  const own = ranker === "encoder" ? VECTOR_BYTES : 0;
  return rows.reduce((sum, { text }) => sum + 6 * text.length + own, 0);
}

/** Where passages are in an index that few of them have come to or gone from since its ranker was chosen; null: too many have. */
function placesIn({ tested, rows: before, ranker }: Held, rows: Held["rows"]): number[] | null {
  if (tested.size < LEAST_TESTED || (ranker === "encoder" && rows.length > MOST_ENCODED)) return null;
  const there = rows.filter(({ id }) => tested.has(id)).length;
  if (rows.length + tested.size - 2 * there > MOST_CHANGED * tested.size) return null;
  const places = new Map(before.map(({ id }, i) => [id, i]));
  return rows.map(({ id }) => places.get(id) ?? -1);
}

function withoutEncoder(error: unknown): undefined {
  logError(`the encoder made no vectors (${error}): documents are searched by their words`);
}

/** In SQL, the version of a user's index: it rises with each change of their passages and of those that all share. */
export const versionFor = (userId: string): string =>
  `COALESCE((SELECT version FROM index_state WHERE user_id = ${userId}), 0) + COALESCE((SELECT version FROM shared_index WHERE id = 'notices'), 0)`;
