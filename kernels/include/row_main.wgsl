// The entry point of a kernel over rows: calls the including file's `work`. All LANES threads of a row call it, in the
// last workgroup also for rows past the end, which must store nothing.
#import "include/row.wgsl"

@compute @workgroup_size(WG)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) index: u32,
) {
  work(rowOf(group, groups, index), index % LANES);
}
