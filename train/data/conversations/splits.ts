import { hash } from "node:crypto";
import type { SplitSettings } from "./config.ts";
import { togetherGroups } from "./duplicates.ts";
import { type ConversationRecord, inOrder } from "./record.ts";

export const splitNames = ["train", "val", "test"] as const;
export type SplitName = (typeof splitNames)[number];
export type Splits = Record<SplitName, ConversationRecord[]>;

/** A number in [0, 1) that follows from a seed and a name: 53 bits of a SHA-256. */
export function splitFraction(seed: number, group: string): number {
  const bytes = Buffer.from(hash("sha256", `split\0${seed}\0${group}`, "hex").slice(0, 16), "hex");
  return Number(bytes.readBigUInt64BE() >> 11n) / 2 ** 53;
}

interface Group {
  fraction: number;
  /** What it is stratified by. */
  stratum: string;
  members: ConversationRecord[];
}

/**
 * Splits conversations so that what belongs together (a session, duplicates, near duplicates at `near`; 0: none are looked for)
 * is never on two sides. `near: null` is for a list that is known to hold no duplicates. Each group falls by the hash of its name, so that new conversations move none that was there, and the
 * order of the list decides nothing. With `exact` or `stratify` groups are cut at the shares instead. Says what is to be
 * known by `warn`.
 */
export function splitConversations(
  list: readonly ConversationRecord[],
  { train, val, seed, exact, stratify }: SplitSettings,
  { near = 0, warn = () => {} }: { near?: number | null; warn?: (line: string) => void } = {},
): Splits {
  const records = inOrder(list);
  const byRoot = new Map<number, Group>();
  for (const [i, root] of togetherGroups(records, near).entries()) {
    const { id, metadata } = records[root];
    const name = metadata.session_id === undefined ? id : String(metadata.session_id);
    const group = byRoot.get(root) ?? {
      fraction: splitFraction(seed, name),
      stratum: stratify === undefined ? "" : String(metadata[stratify] ?? "none"),
      members: [],
    };
    byRoot.set(root, group);
    group.members.push(records[i]);
  }
  const splits: Splits = { train: [], val: [], test: [] };
  const put = ({ members }: Group, at: number) =>
    splits[at < train ? "train" : at < train + val ? "val" : "test"].push(...members);
  const groups = [...byRoot.values()];
  if (!exact && stratify === undefined) for (const group of groups) put(group, group.fraction);
  else
    for (const stratum of [...new Set(groups.map((group) => group.stratum))].sort()) {
      const own = groups.filter((group) => group.stratum === stratum);
      if (stratify !== undefined && own.length < 10)
        warn(`${stratify} ${stratum} has ${own.length} groups: too few to be split evenly`);
      own.sort((a, b) => a.fraction - b.fraction);
      const total = own.reduce((sum, { members }) => sum + members.length, 0);
      let before = 0;
      for (const group of own) {
        put(group, (before + group.members.length / 2) / total);
        before += group.members.length;
      }
    }
  for (const name of splitNames) splits[name] = inOrder(splits[name]);
  return splits;
}
