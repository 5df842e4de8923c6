import type { DeviceProfile } from "../../core/op.ts";

/**
 * A grid of at least `count` workgroups within the adapter's limit per dimension, folded from x into y.
 * The kernel finds its number as `group.x + group.y * num_workgroups.x` and skips what is beyond the end.
 */
export function foldGrid(count: number, profile: Pick<DeviceProfile, "maxGridExtent">): [number, number] {
  if (count <= profile.maxGridExtent) return [count, 1];
  const y = Math.ceil(count / profile.maxGridExtent);
  return [Math.ceil(count / y), y];
}
