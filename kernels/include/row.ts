import type { Call, Lowering, ParamValue, Pass, TensorMeta, Variant } from "../../core/op.ts";
import { numel } from "../../core/shape.ts";
import { foldGrid } from "./grid.ts";

/** Who works on a row of `include/row.wgsl`: a thread, a subgroup or a workgroup. */
export type RowWorker = "thread" | "subgroup" | "workgroup";

/** A dispatch over rows, for a kernel that imports `include/row.wgsl` and has `rows` and `cols` in its params. */
export interface RowWork {
  rows: number;
  /** Elements in a row; the kernel gets them in units of VEC. */
  cols: number;
  params?: Record<string, ParamValue>;
  defines?: Pass["defines"];
  file?: string;
  bind?: Pass["bind"];
}

/** Rows and columns of a tensor seen as a matrix of its last axis. */
export function rowsOf(t: Pick<TensorMeta, "shape">): { rows: number; cols: number } {
  const cols = t.shape.at(-1) ?? 1;
  return { rows: cols === 0 ? 0 : numel(t.shape) / cols, cols };
}

const workers = { thread: 0, subgroup: 1, workgroup: 2 };

/** The dispatch of a row kernel by one kind of worker. */
export function rowPass(call: Pick<Call<never>, "profile">, worker: RowWorker, work: RowWork): Pass {
  const { subgroupSize } = call.profile;
  const size = worker === "workgroup" ? 256 : Math.max(64, subgroupSize);
  const lanes = worker === "thread" ? 1 : worker === "subgroup" ? subgroupSize : size;
  const vec = work.cols % 4 === 0 ? 4 : 1;
  return {
    ...(work.file && { file: work.file }),
    ...(work.bind && { bind: work.bind }),
    defines: { BY: workers[worker], WG: size, LANES: lanes, VEC: vec, ...work.defines },
    params: { rows: work.rows, cols: work.cols / vec, ...work.params },
    grid: foldGrid(Math.ceil(work.rows / (size / lanes)), call.profile),
  };
}

/** Rows from this length on are shared by a workgroup on a GPU: a subgroup alone would take too long. */
const wideRow = 4096;

/**
 * The three variants of a row kernel. One subgroup per row is best nearly everywhere; software adapters
 * without subgroups do better with one thread per row than with barriers.
 */
export function rowVariants<A>(
  file: string,
  width: (call: Call<A>) => number,
  plan: (call: Call<A>, worker: RowWorker) => Pass | Lowering,
): Variant<A>[] {
  const of = (worker: RowWorker, when?: (call: Call<A>) => boolean): Variant<A> => ({
    name: worker,
    file,
    ...(when && { when }),
    plan: (call) => plan(call, worker),
  });
  return [
    of("subgroup", (c) => c.profile.subgroupSize > 0 && (c.profile.class === "cpu" || width(c) < wideRow)),
    of("thread", (c) => c.profile.class === "cpu"),
    of("workgroup"),
  ];
}
