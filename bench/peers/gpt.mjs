// The model that peers train: a GPT-2 of TinyLLM's size, with the sizes, start and data of kiln's `train step GPT-2` row.

/** Sizes as a row gives them: [vocabulary, width, layers, heads, tokens of a row, rows]. */
export function sizesOf([vocabulary, width, layers, heads, length, rows]) {
  return { vocabulary, width, layers, heads, length, rows, headWidth: width / heads };
}

export const adam = { learningRate: 1e-3, beta1: 0.9, beta2: 0.95, eps: 1e-8, decay: 0.1 };

/**
 * Parameters in order, as { shape, data }: token and position tables, final norm (weight, bias), then for each layer norm,
 * query-key-value, projection, norm, two matrices of the MLP, each followed by its bias. Matrices are [in, out].
 */
export function parameters({ vocabulary, width, layers, length }, values) {
  const made = [];
  const add = (shape, fill) => {
    const some = values(shape, made.length + 1);
    // Uniform numbers of standard deviation 0.02.
    const data = fill === "random" ? some.map((x) => x * 0.02 * Math.sqrt(3)) : some.fill(fill);
    made.push({ shape, data });
  };
  const norm = () => {
    add([width], 1);
    add([width], 0);
  };
  const linear = (inputs, outputs) => {
    add([inputs, outputs], "random");
    add([outputs], 0);
  };
  add([vocabulary, width], "random");
  add([length, width], "random");
  norm();
  for (let i = 0; i < layers; i++) {
    norm();
    linear(width, 3 * width);
    linear(width, width);
    norm();
    linear(width, 4 * width);
    linear(4 * width, width);
  }
  return made;
}

/** The made-up tokens of kiln's row and what follows each. */
export function tokens({ vocabulary, length, rows }) {
  const inputs = Int32Array.from({ length: length * rows }, (_, i) => (i * 7919) % vocabulary);
  return { inputs, targets: inputs.map((id) => (id * 31 + 7) % vocabulary) };
}
