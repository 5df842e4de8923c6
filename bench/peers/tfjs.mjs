// TensorFlow.js on its WebGPU backend: eager kernels, gradients by its tape.
import { createRequire } from "node:module";
import { register } from "tsx/cjs/api";
import { adam, parameters, sizesOf, tokens } from "./gpt.mjs";
import { installedVersion } from "./version.mjs";

/** The Node builds, with the gradients that only their source files register: tsx turns those into CommonJS. */
async function load() {
  const { log, warn } = console;
  console.log = console.warn = () => {}; // it advertises another backend
  const unregister = register();
  const require = createRequire(import.meta.url);
  const tf = require("@tensorflow/tfjs-core");
  require("@tensorflow/tfjs-core/dist/register_all_gradients");
  require("@tensorflow/tfjs-backend-webgpu");
  unregister();
  await tf.setBackend("webgpu");
  await tf.ready();
  Object.assign(console, { log, warn });
  return tf;
}

export async function open({ values, wait }) {
  const tf = await load();
  const random = (seed, ...shape) => tf.tensor(values(shape, seed), shape);

  const finish = async () => {
    const backend = tf.backend();
    backend.endComputePassEncoder();
    if (backend.commandEncoder) backend.submitQueue(); // a read has submitted already
    await wait();
  };
  const repeat = (body, ...inputs) => {
    return async (times) => {
      for (let i = 0; i < times; i++) tf.tidy(() => body(...inputs)).dispose();
      await finish();
    };
  };
  const fns = { ...functionsOf(tf), finish };
  return {
    version: installedVersion("@tensorflow/tfjs-core"),
    ops: {
      matmul: (m, k, n) => repeat((a, b) => tf.matMul(a, b), random(1, m, k), random(2, k, n)),
      add: (...shape) => repeat((a, b) => tf.add(a, b), random(1, ...shape), random(2, ...shape)),
      softmax: (...shape) => repeat((x) => tf.softmax(x), random(1, ...shape)),
      gelu: (...shape) => repeat(fns.gelu, random(1, ...shape)),
      layer_norm: (rows, width) =>
        repeat(fns.layerNorm, random(1, rows, width), random(2, width), random(3, width)),
      attention(...shape) {
        const [q, k, v] = [1, 2, 3].map((seed) => random(seed, ...shape));
        return repeat(fns.attention, q, k, v, fns.causalMask(shape[2]));
      },
      train: (...sizes) => trainGpt(tf, fns, sizesOf(sizes), values),
    },
  };
}

/** What TensorFlow.js has no operation for, from those that it has. */
function functionsOf(tf) {
  const layerNorm = (x, weight, bias) => {
    const centred = tf.sub(x, tf.mean(x, -1, true));
    const variance = tf.mean(tf.square(centred), -1, true);
    return tf.add(tf.mul(tf.mul(centred, tf.rsqrt(tf.add(variance, 1e-5))), weight), bias);
  };
  const gelu = (x) => {
    const inner = tf.mul(Math.sqrt(2 / Math.PI), tf.add(x, tf.mul(0.044715, tf.pow(x, 3))));
    return tf.mul(tf.mul(0.5, x), tf.add(1, tf.tanh(inner)));
  };
  const causalMask = (length) => {
    const hidden = Float32Array.from({ length: length ** 2 }, (_, i) =>
      i % length > Math.floor(i / length) ? -1e9 : 0,
    );
    return tf.tensor(hidden, [length, length]);
  };
  const attention = (q, k, v, mask) => {
    const scores = tf.mul(tf.matMul(q, k, false, true), 1 / Math.sqrt(q.shape.at(-1)));
    return tf.matMul(tf.softmax(tf.add(scores, mask)), v);
  };
  return { layerNorm, gelu, causalMask, attention };
}

/** One update: loss, gradients, AdamW. Look-ups are products with one-hot rows, whose gradient it has on WebGPU. */
function trainGpt(tf, { layerNorm, gelu, causalMask, attention, finish }, sizes, values) {
  const { vocabulary, width, heads, headWidth, length, rows } = sizes;
  const variables = parameters(sizes, values).map(({ shape, data }) => tf.variable(tf.tensor(data, shape)));
  const zeros = () => variables.map((v) => tf.variable(tf.zerosLike(v), false));
  const [first, second] = [zeros(), zeros()];
  const { inputs, targets } = tokens(sizes);
  const oneHot = (ids) => tf.cast(tf.oneHot(tf.tensor1d(ids, "int32"), vocabulary), "float32");
  const [x, y, mask] = [oneHot(inputs), oneHot(targets), causalMask(length)];
  const linear = (h, weight, bias) => tf.add(tf.matMul(h, weight), bias);
  const toHeads = (t) => tf.transpose(tf.reshape(t, [rows, length, heads, headWidth]), [0, 2, 1, 3]);
  const fromHeads = (t) => tf.reshape(tf.transpose(t, [0, 2, 1, 3]), [rows * length, width]);

  const loss = () => {
    const [wte, wpe, finalWeight, finalBias, ...layers] = variables;
    const embedded = tf.reshape(tf.matMul(x, wte), [rows, length, width]);
    let h = tf.reshape(tf.add(embedded, wpe), [rows * length, width]);
    for (let i = 0; i < layers.length; i += 12) {
      const [n1, c1, wQkv, bQkv, wOut, bOut, n2, c2, wUp, bUp, wDown, bDown] = layers.slice(i, i + 12);
      const parts = tf.split(linear(layerNorm(h, n1, c1), wQkv, bQkv), 3, -1).map(toHeads);
      h = tf.add(h, linear(fromHeads(attention(...parts, mask)), wOut, bOut));
      h = tf.add(h, linear(gelu(linear(layerNorm(h, n2, c2), wUp, bUp)), wDown, bDown));
    }
    const logits = tf.matMul(layerNorm(h, finalWeight, finalBias), wte, false, true);
    return tf.mul(tf.sum(tf.mul(tf.logSoftmax(logits), y)), -1 / (rows * length));
  };

  const { learningRate, beta1, beta2, eps, decay } = adam;
  const mix = (old, fresh, beta) => tf.add(tf.mul(old, beta), tf.mul(fresh, 1 - beta));
  const update = (grads, step) => {
    variables.forEach((v, i) => {
      first[i].assign(mix(first[i], grads[v.name], beta1));
      second[i].assign(mix(second[i], tf.square(grads[v.name]), beta2));
      const root = tf.sqrt(tf.mul(second[i], 1 / (1 - beta2 ** step)));
      const move = tf.div(tf.mul(first[i], 1 / (1 - beta1 ** step)), tf.add(root, eps));
      v.assign(tf.sub(tf.mul(v, 1 - learningRate * decay), tf.mul(move, learningRate)));
    });
  };
  let step = 0;
  return async (times) => {
    let last = Number.NaN;
    for (let i = 0; i < times; i++) {
      const { value, grads } = tf.variableGrads(loss, variables);
      step++;
      tf.tidy(() => update(grads, step));
      if (i === times - 1) last = (await value.data())[0];
      value.dispose();
      for (const name in grads) grads[name].dispose();
    }
    await finish();
    return last;
  };
}
