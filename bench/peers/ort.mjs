// onnxruntime-web on its WebGPU execution provider: one-node models, inputs and results on the device.
import { createRequire } from "node:module";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { oneNode } from "./onnx.mjs";
import { installedVersion } from "./version.mjs";

export async function open({ values, wait }) {
  // In Node the package resolves to its CPU build; the browser's WebGPU build is beside it.
  const folder = path.dirname(createRequire(import.meta.url).resolve("onnxruntime-web"));
  const ort = await import(pathToFileURL(path.join(folder, "ort.webgpu.mjs")).href);
  Object.assign(ort.env.wasm, { numThreads: 1, wasmPaths: `${pathToFileURL(folder).href}/` });
  ort.env.logLevel = "error";

  /** Sessions take their model's inputs as GPU buffers of the device that the first session opened. */
  const prepare = async (type, shapes, output, attributes) => {
    const { names, model } = oneNode(type, shapes, output, attributes);
    const session = await ort.InferenceSession.create(model, {
      executionProviders: ["webgpu"],
      preferredOutputLocation: "gpu-buffer",
    });
    const device = await ort.env.webgpu.device;
    const feed = {};
    shapes.forEach((dims, i) => {
      const data = values(dims, i + 1);
      const { STORAGE, COPY_DST, COPY_SRC } = GPUBufferUsage;
      const usage = STORAGE | COPY_DST | COPY_SRC;
      const buffer = device.createBuffer({ size: Math.ceil(data.byteLength / 16) * 16, usage });
      device.queue.writeBuffer(buffer, 0, data);
      feed[names[i]] = ort.Tensor.fromGpuBuffer(buffer, { dataType: "float32", dims });
    });
    return async (times) => {
      for (let i = 0; i < times; i++) (await session.run(feed)).y.dispose();
      await wait();
    };
  };

  return {
    version: installedVersion("onnxruntime-web"),
    ops: {
      matmul: (m, k, n) =>
        prepare(
          "MatMul",
          [
            [m, k],
            [k, n],
          ],
          [m, n],
        ),
      add: (...shape) => prepare("Add", [shape, shape], shape),
      softmax: (...shape) => prepare("Softmax", [shape], shape, { axis: -1 }),
      layer_norm: (rows, width) =>
        prepare("LayerNormalization", [[rows, width], [width], [width]], [rows, width], {
          axis: -1,
          epsilon: 1e-5,
        }),
    },
  };
}
