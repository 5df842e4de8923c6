// kiln as a peer of a benchmark that runs many libraries side by side, each in its own process: `run.mjs --ours FILE`.
// `open` gives named tasks; a task prepares its data and returns `run`, which does one unit of work and waits for it.
import { load } from "../bin/load.mjs";

/** The benchmark chooses drivers by environment, and by default drops bounds checks for everyone. */
function followEnvironment() {
  const flags = process.env.PEERS_DAWN_FLAGS ?? "disable_robustness";
  if (flags.includes("disable_robustness")) process.env.KILN_UNCHECKED = "1";
  const driver = process.env.VK_DRIVER_FILES ?? "";
  // A driver from kiln's own cache goes by its name; any other is the system's as far as kiln can tell.
  const own = /\.cache\/gpu\/(lavapipe|swiftshader)\//.exec(driver);
  if (own) process.env.KILN_ADAPTER = own[1];
}

export async function open(_mode, { TINY, cap }) {
  followEnvironment();
  const { version } = (await import("../package.json", { with: { type: "json" } })).default;
  const k = await load("kernels/index");
  const { compile } = await load("core/compile");
  const { scope } = await load("core/scope");
  const { noGrad } = await load("core/tape");
  const { tensor } = await load("core/tensor");
  const { values } = await load("bench/data");
  const device = await k.openDevice();
  cap.adapter = { info: device.description };
  cap.device = device.gpu;

  let seed = 1;
  const random = (...shape) => tensor(values(shape, seed++), shape);
  const op = (call) => async () => {
    scope(() => void noGrad(call));
    await device.sync();
  };

  const tasks = kernelTasks(k, op, random);
  tasks.dispatch = () => {
    const [first, w] = [random(8, 8), random(8, 8)];
    const run = op(() => {
      let x = first;
      for (let i = 0; i < 200; i++) x = k.matmul(x, w);
      return x;
    });
    run.per = 200;
    return run;
  };
  tasks.compile30 = () => {
    // Five functions, each one of two by a bit of the number: thirty programs, none alike, each fused into one kernel.
    const program = (i) =>
      compile((x) => {
        let y = x;
        for (let bit = 0; bit < 5; bit++) y = (i >> bit) & 1 ? k.sin(y) : k.sigmoid(y);
        return k.sum(y);
      });
    const steps = Array.from({ length: 30 }, (_, i) => ({ step: program(i), x: random(64 + i) }));
    const run = async () => {
      for (const { step, x } of steps) await op(() => step(x))();
    };
    run.coldMinusWarm = true;
    return run;
  };
  tasks.train = () => trainTask(TINY);
  return { name: "kiln", version, threads: 2, tasks };
}

/** One kernel each, at the sizes that the benchmark compares. */
function kernelTasks(k, op, random) {
  const tasks = {};
  for (const n of [256, 512, 1024]) {
    tasks[`matmul${n}`] = () => {
      const [a, b] = [random(n, n), random(n, n)];
      return op(() => k.matmul(a, b));
    };
  }
  tasks.add4M = () => {
    const [a, b] = [random(4 << 20), random(4 << 20)];
    return op(() => k.add(a, b));
  };
  tasks.softmax = () => {
    const x = random(2048, 1024);
    return op(() => k.softmax(x));
  };
  tasks.layernorm = () => {
    const [x, weight, bias] = [random(2048, 1024), random(1024), random(1024)];
    return op(() => k.layerNorm(x, weight, bias));
  };
  tasks.attn = () => {
    const [q, key, v] = [1, 2, 3].map(() => random(8, 4, 128, 32));
    return op(() => k.attention(q, key, v, { causal: true }));
  };
  return tasks;
}

/** TinyLLM as kiln has it, a Llama: SwiGLU and rotary positions where the others have GELU and learned ones. */
async function trainTask({ V, D, L, H, T, B, lr, b1, b2, eps, wd }) {
  const { tinyllmConfig } = await load("models/llama_config");
  const { LlamaForCausalLM } = await load("models/llama");
  const { AdamW } = await load("train/optimizers/index");
  const { Trainer } = await load("train/trainer");
  const config = tinyllmConfig({
    vocab_size: V,
    hidden_size: D,
    num_hidden_layers: L,
    num_attention_heads: H,
  });
  const model = new LlamaForCausalLM(config).init(1);
  const options = { betas: [b1, b2], eps, weightDecay: wd };
  const trainer = new Trainer(model, new AdamW(model.namedParameters(), options), {
    maxGradNorm: 0,
    sequenceLength: T,
  });
  const { batchOf, madeUpTokens } = await load("bench/data");
  const batch = batchOf(madeUpTokens(B * T, V), T);
  const run = async () => {
    const { lossSum, gradNorm } = trainer.step([batch], lr);
    run.losses.push((await lossSum.item()) / batch.supervised);
    for (const t of [lossSum, gradNorm]) t.storage.free();
  };
  run.losses = [];
  return run;
}
