// Weights of a matrix in NF4 with double quantization: see nf4.ts, which says what the words of `b` are.

/// Where the codes of magnitudes and the tables begin.
struct Nf4 {
  absmax: u32,
  tables: u32,
}

fn nf4Of(size: u32) -> Nf4 {
  let absmax = (size + 7) / 8;
  return Nf4(absmax, absmax + ((size + 63) / 64 + 3) / 4);
}

fn tableOf(i: u32, q: Nf4) -> f32 {
  return bitcast<f32>(b[q.tables + i]);
}

/// The magnitude of a weight's block.
fn magnitudeOf(i: u32, q: Nf4) -> f32 {
  let block = i / 64;
  let code = (b[q.absmax + block / 4] >> (block % 4 * 8)) & 255;
  return tableOf(16 + code, q) * tableOf(273 + block / 256, q) + tableOf(272, q);
}

fn weightAt(i: u32, q: Nf4) -> f32 {
  let code = (b[i / 8] >> ((i / 2 % 4 * 8) + (1 - i % 2) * 4)) & 15;
  return tableOf(code, q) * magnitudeOf(i, q);
}

/// Four weights from a multiple of four on.
fn fourWeightsAt(i: u32, q: Nf4) -> vec4f {
  let bytes = b[i / 8] >> (i / 4 % 2 * 16);
  let codes = vec4u(bytes >> 4, bytes, bytes >> 12, bytes >> 8) & vec4u(15);
  return magnitudeOf(i, q) * vec4f(tableOf(codes.x, q), tableOf(codes.y, q), tableOf(codes.z, q), tableOf(codes.w, q));
}
