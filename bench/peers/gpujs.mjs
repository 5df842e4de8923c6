// gpu.js: one JavaScript function per output cell, translated to WGSL.
import { GPU, input } from "gpu.js";
import { installedVersion } from "./version.mjs";

export async function open({ values, wait }) {
  const gpu = new GPU({ mode: "webgpu" });
  /** Kernels keep their results on the device (`pipeline`). Sizes are [columns, rows]. */
  const kernel = (body, size, constants = {}) =>
    gpu.createKernel(body).setOutput(size).setConstants(constants).setPipeline(true);

  const upload = async (rows, columns, seed) => {
    const size = [columns, rows];
    const copy = kernel(function (a) {
      return a[this.thread.y][this.thread.x];
    }, size);
    return copy(input(values([rows, columns], seed), size));
  };

  const repeat = (call) => async (times) => {
    for (let i = 0; i < times; i++) (await call())?.delete?.();
    await wait();
  };

  return {
    version: installedVersion("gpu.js"),
    ops: {
      async matmul(m, k, n) {
        const [a, b] = [await upload(m, k, 1), await upload(k, n, 2)];
        const multiply = kernel(
          function (a, b) {
            let sum = 0;
            for (let i = 0; i < this.constants.k; i++) sum += a[this.thread.y][i] * b[i][this.thread.x];
            return sum;
          },
          [n, m],
          { k },
        );
        return repeat(() => multiply(a, b));
      },
      async add(rows, columns) {
        const [a, b] = [await upload(rows, columns, 1), await upload(rows, columns, 2)];
        const sum = kernel(
          function (a, b) {
            return a[this.thread.y][this.thread.x] + b[this.thread.y][this.thread.x];
          },
          [columns, rows],
        );
        return repeat(() => sum(a, b));
      },
    },
  };
}
