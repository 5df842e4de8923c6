import type { Store } from "../store.ts";

/** A step from one schema to the next. Once it is released it never changes: stores remember its checksum. */
export interface Migration {
  /** 1, 2, 3, … without a gap. */
  version: number;
  name: string;
  /** The tables it makes whose rows are data (not made from others), those referred to before those that refer. */
  tables: readonly Table[];
  /** Definitions in the portable SQL, each statement ending a line with `;`, or each database's own where they must differ. */
  sql: string | { sqlite: string; postgres: string };
  /** Fills what the definitions made, from rows that were there. */
  fill?(tx: Store): Promise<void>;
}

export interface Table {
  name: string;
  /** The columns of its primary key. */
  key: readonly string[];
}

export const table = (name: string, ...key: string[]): Table => ({ name, key });
