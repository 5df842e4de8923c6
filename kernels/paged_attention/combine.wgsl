// Joins the chunks of each token and head, first to last.
struct Params {
  heads: u32,
  first: u32,   // token at which this dispatch begins; temporaries begin with it
  blocks: u32,
  chunks: u32,
  total: u32,   // tokens of this dispatch * heads * CELLS
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> sequences: array<i32>;
@group(0) @binding(2) var<storage, read> positions: array<i32>;
@group(0) @binding(3) var<storage, read_write> out: array<OUT_CELL>;
@group(0) @binding(4) var<storage, read> partial: array<CELL>;
@group(0) @binding(5) var<storage, read> stats: array<vec2<f32>>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) local: u32) {
  let index = (group.x + group.y * groups.x) * 64u + local;
  if (index >= params.total) { return; }
  let row = index / CELLS;
  let token = params.first + row / params.heads;
  let known = sequences[token] >= 0 && positions[token] >= 0;
  let end = select(0u, min(u32(positions[token]) + 1u, params.blocks * BLOCK_SIZE), known);
  var top = -1e29;
  var total = 0.0;
  var sum = CELL();
  for (var chunk = 0u; chunk * CHUNK < end; chunk++) {
    let place = row * params.chunks + chunk;
    let theirs = stats[place];
    let higher = max(top, theirs.x);
    let keep = exp(top - higher);
    let share = exp(theirs.x - higher);
    top = higher;
    total = fma(total, keep, theirs.y * share);
    sum = fma(sum, CELL(keep), partial[place * CELLS + index % CELLS] * share);
  }
  out[params.first * params.heads * CELLS + index] = OUT_CELL(select(sum * (1.0 / total), CELL(), total == 0.0));
}
