import type { TokenConstraint } from "../types.ts";
import type { Automaton } from "./automaton.ts";
import type { Vocabulary } from "./vocabulary.ts";

/**
 * Ways of reading the text so far that are followed at once. Forms that need more are ambiguous on purpose; of theirs, the
 * first ones are kept, each of which can be finished.
 */
const MOST_PLACES = 256;
/** States kept for reuse, each with a table of 256 bytes: what they are made of is made again when there are more. */
const MOST_STATES = 4096;
/** Masks kept for reuse. */
const MOST_MASKS = 256;
/** Places visited in one walk over the vocabulary. What it does not reach is not allowed, single bytes excepted. */
const MOST_VISITS = 1_000_000;

/** A call that has not ended: where to go on, in the call around it. */
class Frame {
  readonly back: number;
  readonly parent: Frame | null;
  readonly calls = new Map<number, Frame>();
  readonly places = new Map<number, Place>();

  constructor(back: number, parent: Frame | null) {
    this.back = back;
    this.parent = parent;
  }
}

/** A node with the calls around it. */
interface Place {
  readonly id: number;
  readonly node: number;
  readonly frame: Frame;
}

/** All places that one text leads to. Equal states are one object as long as they are kept. */
interface State {
  /** Those that some byte leaves, in the order in which they were found: it must not depend on earlier requests. */
  readonly places: readonly Place[];
  /** Whether the text may end here. */
  readonly accepts: boolean;
  /** By byte; undefined: not known yet, null: no way. */
  readonly next: (State | null | undefined)[];
}

/**
 * Which tokens keep a text within a form, decided by walking an automaton over the bytes of the vocabulary. States are made
 * when they are first reached, and kept for all answers of the same form.
 */
export class Grammar {
  readonly #automaton: Automaton;
  readonly #ends: Uint8Array;
  readonly #root: number;
  readonly #vocabulary: Vocabulary;
  #bottom = new Frame(-1, null);
  #states = new Map<string, State>();
  #masks = new Map<State, Uint32Array>();
  #places = 0;

  /** @param root the rule that a whole answer is; the automaton is finished. */
  constructor(automaton: Automaton, root: number, vocabulary: Vocabulary) {
    this.#automaton = automaton;
    this.#root = root;
    this.#vocabulary = vocabulary;
    this.#ends = new Uint8Array(automaton.nodes.length);
    for (const { end } of automaton.rules) this.#ends[end] = 1;
  }

  /** The constraint of one answer. */
  matcher(): TokenConstraint & { accepts(history: readonly number[], promptLength: number): boolean } {
    let state = this.#start();
    let read = 0;
    const advance = (history: readonly number[], promptLength: number) => {
      // A sequence is only ever continued, unless its last step is taken back.
      if (history.length - promptLength < read) [state, read] = [this.#start(), 0];
      for (; promptLength + read < history.length; read++)
        state = this.#after(state, history[promptLength + read]);
      return state;
    };
    return {
      allowed: (history, promptLength) => this.#mask(advance(history, promptLength)),
      accepts: (history, promptLength) => advance(history, promptLength).accepts,
    };
  }

  /** Whether a text has the form. */
  matches(text: string | Uint8Array): boolean {
    let state: State | null = this.#start();
    for (const byte of typeof text === "string" ? new TextEncoder().encode(text) : text) {
      state = this.#step(state, byte);
      if (state === null) return false;
    }
    return state.accepts;
  }

  #start(): State {
    return this.#closure([[this.#automaton.rules[this.#root].start, this.#bottom]]);
  }

  #after(state: State, token: number): State {
    const bytes = this.#vocabulary.bytesOf(token);
    let next: State | null = bytes === undefined ? null : state;
    for (const byte of bytes ?? []) next = next === null ? null : this.#step(next, byte);
    if (next === null) throw new Error(`token ${token} is not allowed where it was taken`);
    return next;
  }

  #step(state: State, byte: number): State | null {
    const known = state.next[byte];
    if (known !== undefined) return known;
    const reached: [node: number, frame: Frame][] = [];
    for (const { node, frame } of state.places) {
      for (const { lo, hi, to } of this.#automaton.nodes[node].bytes) {
        if (byte >= lo && byte <= hi) reached.push([to, frame]);
      }
    }
    const next = reached.length === 0 ? null : this.#closure(reached);
    state.next[byte] = next;
    return next;
  }

  /** The state of some places and of all that follow from them without a byte. */
  #closure(open: [node: number, frame: Frame][]): State {
    const seen = new Set<Place>();
    const places: Place[] = [];
    let accepts = false;
    open.reverse();
    for (let next = open.pop(); next !== undefined && places.length < MOST_PLACES; next = open.pop()) {
      const [node, frame] = next;
      const place = this.#place(node, frame);
      if (seen.has(place)) continue;
      seen.add(place);
      const { bytes, skips, calls } = this.#automaton.nodes[node];
      if (bytes.length > 0) places.push(place);
      if (this.#ends[node] === 1) {
        if (frame.parent === null) accepts = true;
        else open.push([frame.back, frame.parent]);
      }
      for (let i = calls.length - 1; i >= 0; i--) {
        const { rule, to } = calls[i];
        const inner = frame.calls.get(to) ?? new Frame(to, frame);
        frame.calls.set(to, inner);
        open.push([this.#automaton.rules[rule].start, inner]);
      }
      for (let i = skips.length - 1; i >= 0; i--) open.push([skips[i], frame]);
    }
    return this.#intern(places, accepts);
  }

  #place(node: number, frame: Frame): Place {
    const place = frame.places.get(node) ?? { id: this.#places++, node, frame };
    frame.places.set(node, place);
    return place;
  }

  #intern(places: readonly Place[], accepts: boolean): State {
    const key = `${accepts} ${places.map(({ id }) => id).join()}`;
    const known = this.#states.get(key);
    if (known !== undefined) return known;
    if (this.#states.size >= MOST_STATES) {
      // Sequences go on in the states that they hold.
      this.#bottom = new Frame(-1, null);
      this.#states = new Map();
    }
    const state = { places, accepts, next: new Array(256) };
    this.#states.set(key, state);
    return state;
  }

  /** A bit for each token that may come next. */
  #mask(state: State): Uint32Array {
    let mask = this.#masks.get(state);
    if (mask === undefined) {
      mask = this.#walk(state);
      if (this.#masks.size >= MOST_MASKS) this.#masks.delete(this.#masks.keys().next().value!);
    } else this.#masks.delete(state);
    this.#masks.set(state, mask);
    return mask;
  }

  #walk(state: State): Uint32Array {
    const { byte, depth, end, first, ids, deepest, eosIds, maskWords } = this.#vocabulary;
    const mask = new Uint32Array(maskWords);
    const allow = (id: number) => {
      mask[id >>> 5] |= 1 << (id & 31);
    };
    if (state.accepts) eosIds.forEach(allow);
    const path: State[] = new Array(deepest + 1);
    path[0] = state;
    let visits = 0;
    for (let node = 0; node < byte.length; ) {
      const at = depth[node];
      const before = path[at - 1];
      const next = visits > MOST_VISITS && at > 1 ? null : this.#step(before, byte[node]);
      visits += before.places.length;
      if (next === null) {
        node = end[node];
        continue;
      }
      path[at] = next;
      for (let i = first[node]; i < first[node + 1]; i++) allow(ids[i]);
      node++;
    }
    return mask;
  }
}
