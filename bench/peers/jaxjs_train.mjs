// A training step of a GPT-2 in jax-js, compiled whole by its `jit`.
import { adam, parameters, sizesOf, tokens } from "./gpt.mjs";

/** jax-js arrays are consumed by use; `.ref` keeps them. */
export function trainGpt({ jit, nn, numpy, valueAndGrad }, layerNorm, row, values) {
  const sizes = sizesOf(row);
  const { vocabulary, width, heads, headWidth, length, rows } = sizes;
  const linear = (h, weight, bias) => numpy.matmul(h, weight).add(bias);

  const loss = (all, x, y) => {
    const [wte, wpe, finalWeight, finalBias, ...layers] = all;
    let h = numpy.matmul(x, wte.ref).reshape([rows, length, width]).add(wpe);
    for (let i = 0; i < layers.length; i += 12) {
      const [n1, c1, wQkv, bQkv, wOut, bOut, n2, c2, wUp, bUp, wDown, bDown] = layers.slice(i, i + 12);
      const qkv = numpy.split(linear(layerNorm(h.ref, n1, c1), wQkv, bQkv), 3, -1);
      const [q, k, v] = qkv.map((t) => t.reshape([rows, length, heads, headWidth]));
      const seen = nn.dotProductAttention(q, k, v, { isCausal: true }).reshape([rows, length, width]);
      h = h.add(linear(seen, wOut, bOut));
      const inner = nn.gelu(linear(layerNorm(h.ref, n2, c2), wUp, bUp));
      h = h.add(linear(inner, wDown, bDown));
    }
    const flat = layerNorm(h, finalWeight, finalBias).reshape([rows * length, width]);
    const logits = numpy.matmul(flat, wte.transpose());
    return nn
      .logSoftmax(logits, -1)
      .mul(y)
      .sum()
      .mul(-1 / (rows * length));
  };

  const { learningRate, beta1, beta2, eps, decay } = adam;
  const differentiate = valueAndGrad(loss);
  const update = jit((weights, first, second, correction1, correction2, x, y) => {
    const [value, grads] = differentiate(
      weights.map((w) => w.ref),
      x,
      y,
    );
    const next = weights.map((weight, i) => {
      const m = first[i].mul(beta1).add(grads[i].ref.mul(1 - beta1));
      const v = second[i].mul(beta2).add(numpy.square(grads[i]).mul(1 - beta2));
      const root = numpy.sqrt(v.ref.mul(correction2.ref)).add(eps);
      const move = m.ref.mul(correction1.ref).div(root);
      return [weight.mul(1 - learningRate * decay).sub(move.mul(learningRate)), m, v];
    });
    correction1.dispose();
    correction2.dispose();
    return [value, ...[0, 1, 2].map((part) => next.map((of) => of[part]))];
  });

  let weights = parameters(sizes, values).map(({ shape, data }) => numpy.array(data).reshape(shape));
  let [first, second] = [0, 1].map(() => weights.map((w) => numpy.zerosLike(w.ref)));
  const { inputs, targets } = tokens(sizes);
  const oneHot = (ids) => nn.oneHot(numpy.array(ids, { dtype: numpy.int32 }), vocabulary);
  const [x, y] = [oneHot(inputs), oneHot(targets)];
  let step = 0;
  return async (times) => {
    let last = Number.NaN;
    for (let i = 0; i < times; i++) {
      step++;
      const corrections = [beta1, beta2].map((beta) => numpy.array(1 / (1 - beta ** step)));
      const [value, ...state] = update(weights, first, second, ...corrections, x.ref, y.ref);
      [weights, first, second] = state;
      if (i === times - 1) last = (await value.data())[0];
      else value.dispose();
    }
    return last;
  };
}
