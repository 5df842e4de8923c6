// One step of a dynamic loss scale (Micikevicius et al. 2018); `state` has the order of lossScalerNames in loss_scale.ts.
struct Params { growth: f32, backoff: f32, interval: f32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> state: array<f32>;
@group(0) @binding(2) var<storage, read> scale: array<f32>;

@compute @workgroup_size(1)
fn main() {
  if (scale[0] == 0.0) {
    state[0] *= params.backoff;
    state[1] = 0.0;
    state[3] += 1.0;
    return;
  }
  state[2] += 1.0;
  state[1] += 1.0;
  if (state[1] >= params.interval) {
    let grown = state[0] * params.growth;
    state[0] = select(state[0], grown, grown < 3.0e38);
    state[1] = 0.0;
  }
}
