// jax-js: traced functions compiled to WGSL (its `jit`).
import { trainGpt } from "./jaxjs_train.mjs";
import { installedVersion } from "./version.mjs";

/** jax-js uses iterator helpers, which Node has from version 22 on. */
function addIteratorHelpers() {
  const prototype = Object.getPrototypeOf(Object.getPrototypeOf([][Symbol.iterator]()));
  if (prototype.map) return;
  const viaArray = ["every", "find", "forEach", "reduce", "some"];
  for (const name of viaArray) {
    prototype[name] = function (...args) {
      return Array.from(this)[name](...args);
    };
  }
  for (const name of ["filter", "flatMap", "map"]) {
    prototype[name] = function (f) {
      return Array.from(this)
        [name]((item, i) => f(item, i))
        [Symbol.iterator]();
    };
  }
  prototype.toArray = function () {
    return Array.from(this);
  };
}

export async function open({ values, wait }) {
  addIteratorHelpers();
  const jax = await import("@jax-js/jax");
  const { blockUntilReady, defaultDevice, init, jit, nn, numpy } = jax;
  await init("webgpu");
  defaultDevice("webgpu");
  const random = (seed, ...shape) => numpy.array(values(shape, seed)).reshape(shape);

  /** jax-js arrays are consumed by use; `.ref` keeps them. */
  const repeat = (body, ...args) => {
    const compiled = jit(body);
    return async (times) => {
      let last = null;
      for (let i = 0; i < times; i++) {
        last?.dispose();
        last = compiled(...args.map((arg) => arg.ref));
      }
      await blockUntilReady(last);
      await wait();
      last.dispose();
    };
  };

  const layerNorm = (x, weight, bias) => nn.standardize(x, -1).mul(weight).add(bias);

  return {
    version: installedVersion("@jax-js/jax"),
    ops: {
      matmul: (m, k, n) => repeat((a, b) => numpy.matmul(a, b), random(1, m, k), random(2, k, n)),
      add: (...shape) => repeat((a, b) => a.add(b), random(1, ...shape), random(2, ...shape)),
      softmax: (...shape) => repeat((x) => nn.softmax(x, -1), random(1, ...shape)),
      layer_norm: (rows, width) =>
        repeat(layerNorm, random(1, rows, width), random(2, width), random(3, width)),
      gelu: (...shape) => repeat((x) => nn.gelu(x), random(1, ...shape)),
      attention(batch, heads, length, dim) {
        const shape = [batch, length, heads, dim];
        return repeat(
          (q, k, v) => nn.dotProductAttention(q, k, v, { isCausal: true }),
          random(1, ...shape),
          random(2, ...shape),
          random(3, ...shape),
        );
      },
      train: (...sizes) => trainGpt(jax, layerNorm, sizes, values),
    },
  };
}
