// Attention as one reads it in the paper: a thread owns a query, walks the keys once, and keeps the softmax online
// (running maximum, running sum, running weighted mean of values), so that no [T, S] tensor exists. Hidden keys are skipped
// whole, and NaN is kept. MEND: only rows that a quicker kernel marked with a NaN in lse: it gave hidden keys a weight of 0,
// but 0 * NaN is NaN, or exp and max may have dropped one.
#import "attention/layout.wgsl"

@compute @workgroup_size(32)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let i = id.x;
  let head = id.y;
  let batch = id.z;
  if (i >= params.queries) { return; }
  let row = (batch * params.heads + head) * params.queries + i;
#if MEND
  if (!is_nan(lse[row])) { return; }
#endif
  let q = query_at(batch, head, i);
  var top = LOWEST;
  var total = 0.0;
  var lost = false;
  var mean: array<f32, HEAD_DIM>;
  let end = select(params.keys, min(params.keys, i + 1u), params.causal != 0u);
  for (var j = 0u; j < end; j++) {
    if (!visible(batch, head, i, j)) { continue; }
    let k = key_at(batch, head / params.group, j);
    let v = value_at(batch, head / params.group, j);
    var score = 0.0;
    for (var c = 0u; c < params.head_dim; c++) {
      score = fma(f32(query[q + c * params.query.w]), f32(key[k + c * params.key.w]), score);
    }
    score *= params.scale;
    // With NaN or +infinity among the scores there is no softmax.
    lost = lost || is_nan(score) || bitcast<u32>(score) == 0x7f800000u;
    let higher = max(top, score);
    let keep = exp(top - higher);
    let weight = exp(score - higher);
    top = higher;
    total = fma(total, keep, weight);
    for (var c = 0u; c < params.head_dim; c++) {
      mean[c] = fma(mean[c], keep, weight * f32(value[v + c * params.value.w]));
    }
  }
  let none = !lost && total == 0.0;
  let norm = select(1.0 / total, quiet_nan(top), lost);
  let o = ((batch * params.queries + i) * params.heads + head) * params.head_dim;
  for (var c = 0u; c < params.head_dim; c++) { out[o + c] = U0(select(mean[c] * norm, 0.0, none)); }
  lse[row] = select(select(top + log(total), norm, lost), 0.0, none);
}
