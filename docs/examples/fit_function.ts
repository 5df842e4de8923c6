// Fits a small network to sin(3x). Run it with `npx tsx docs/examples/fit_function.ts`.
import { openDevice, tanh, tensor } from "kiln";
import { Linear, mseLoss, Sequential } from "kiln/nn";
import { AdamW } from "kiln/train";

const device = await openDevice(); // the GPU, or a software adapter where there is none
console.log(device.description.description);
const x = tensor(Array.from({ length: 256 }, (_, i) => [i / 128 - 1])); // [256, 1]
const y = x.mul(3).sin();
const model = new Sequential(new Linear(1, 64), tanh, new Linear(64, 1));
const optimizer = new AdamW(model.parameters(), { lr: 0.01 });
for (let step = 0; step <= 300; step++) {
  const loss = mseLoss(model.forward(x), y);
  optimizer.zeroGrad();
  loss.backward();
  optimizer.step();
  if (step % 100 === 0) console.log(`step ${step}, loss ${await loss.item()}`);
}
console.log("sin(1.5) is", await model.forward(tensor([[0.5]])).item());
