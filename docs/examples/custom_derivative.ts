// An op with a derivative of your own: rounding, whose gradient passes straight through (Bengio et al. 2013), so that
// weights can be trained to be whole numbers. Run it with `npx tsx docs/examples/custom_derivative.ts`.
import { custom, openDevice, type Tensor, tensor } from "kiln";
import { mseLoss } from "kiln/nn";
import { Sgd } from "kiln/train";

function roundStraight(x: Tensor): Tensor {
  const [rounded] = custom(
    "round_straight",
    [x],
    () => ({ outputs: [x.round()] }),
    ([gradient]) => [gradient],
  );
  return rounded;
}

await openDevice();
const weights = tensor([0.2, -0.4, 0.1]).requireGrad();
const x = tensor([
  [1, 2, 3],
  [3, 1, 1],
  [0, 1, -1],
  [2, 0, 1],
]);
const y = tensor([[2, -1, 3]])
  .matmul(x.t())
  .reshape([4]);
const optimizer = new Sgd([weights], { lr: 0.05 });
for (let step = 0; step < 60; step++) {
  optimizer.zeroGrad();
  mseLoss(x.matmul(roundStraight(weights)), y).backward();
  optimizer.step();
}
console.log("weights", ...(await roundStraight(weights).data())); // 2 -1 3
