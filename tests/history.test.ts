import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { backward, custom, grads } from "../core/autograd.ts";
import { compile } from "../core/compile.ts";
import { setDevice, withDevice } from "../core/device.ts";
import { ReferenceDevice } from "../core/reference_device.ts";
import { persist, scope } from "../core/scope.ts";
import { noGrad } from "../core/tape.ts";
import { type Tensor, tensor, zeros } from "../core/tensor.ts";
import * as k from "../kernels/index.ts";

// A derivative is right or an error: never null, zero or stale where the value depends on the input.
beforeAll(async () => void (await k.openDevice()));
afterAll(() => setDevice(null));

const values = async (t: Tensor | null | undefined) => Array.from(await t!.data());
const leaf = (list: number[], shape = [list.length]) => persist(tensor(list, shape)).requireGrad();

describe("values overwritten since the forward pass", () => {
  it.each<[string, (w: Tensor) => void]>([
    ["assignInto", (w) => k.assignInto(w, tensor([10]))],
    ["addInto", (w) => k.addInto(w, tensor([8]))],
    ["write", (w) => w.write([10])],
    ["a view's update", (w) => k.assignInto(w.asStrided([1, 1], [1, 1], 0), tensor([10], [1, 1]))],
    [
      "an optimizer",
      (w) => {
        const hyper = tensor(k.hyperValues({ lr: 1 }));
        k.sgdStep([{ param: w, grad: tensor([1]), memory: zeros([1, 1]) }], hyper, tensor([1]));
      },
    ],
    ["a compiled step", (w) => compile(() => k.assignInto(w, tensor([10])))()],
  ])("are refused by a derivative that needs them: %s", async (_, overwrite) => {
    for (const device of [null, new ReferenceDevice()]) {
      const run = () => {
        const w = leaf([2]);
        const y = k.sum(k.square(w));
        overwrite(w);
        expect(() => grads(y, [w])).toThrow(/derivative of square needs Tensor.* overwritten in place/);
        return values(grads(k.sum(k.square(w)), [w])[0]);
      };
      expect(await (device ? withDevice(device, run) : run())).toHaveLength(1);
    }
  });

  it("are refused in an output and in what a custom derivative saved", () => {
    const w = leaf([1, 2]);
    const y = k.exp(w);
    noGrad(() => k.assignInto(y, tensor([0, 0])));
    expect(() => grads(k.sum(k.softmax(w)), [w])).not.toThrow();
    const s = k.softmax(w);
    noGrad(() => k.assignInto(s, tensor([0, 0])));
    expect(() => grads(k.sum(s), [w])).toThrow(/derivative of softmax needs/);
    let kept: Tensor | undefined;
    const [z] = custom(
      "doubled",
      [w],
      () => {
        kept = tensor([2, 2]);
        return { outputs: [k.mul(w, 2)], saved: [kept] };
      },
      ([g], [two]) => [k.mul(g!, two!)],
    );
    kept!.write([3, 3]);
    expect(() => grads(k.sum(z!), [w])).toThrow(/derivative of doubled needs/);
  });

  it("do not matter to a derivative that does not read them", async () => {
    const w = leaf([2]);
    const y = k.sum(k.add(k.mul(w, 3), 1));
    k.assignInto(w, tensor([10]));
    expect(await values(grads(y, [w])[0])).toEqual([3]);
  });

  it("may be overwritten after the derivatives, and by tracing a step that is not run", async () => {
    const w = leaf([3]);
    const step = compile(() => {
      const [g] = grads(k.sum(k.square(w)), [w]);
      k.addInto(w, k.mul(g!, -0.25));
    });
    const y = k.sum(k.square(w));
    await step.prepare();
    expect(await values(grads(y, [w])[0])).toEqual([6]);
    step();
    step();
    expect(await values(w)).toEqual([0.75]);
  });

  it("cannot be those of a tensor with a history, whose derivative would miss the update", () => {
    const w = leaf([2]);
    const y = k.mul(w, 3);
    expect(() => k.addInto(y, k.square(w))).toThrow(/assign: Tensor.* has a history/);
  });
});

describe("no gradient", () => {
  it("is an error where nothing needs one", () => {
    const w = leaf([1, 2]);
    expect(() => backward(k.sum(tensor([1, 2])))).toThrow(
      /backward: .*depends on no tensor that needs a gradient/,
    );
    expect(() => backward(noGrad(() => k.sum(w)))).toThrow(/outside of noGrad/);
    expect(() => grads(k.sum(tensor([1, 2])), [w])).toThrow(/grads: .*depends on no tensor/);
    expect(() => grads(k.sum(w), [w.detach()])).toThrow(/needs no gradient; call requireGrad/);
    expect(() => grads(k.sum(k.cast(k.gt(w, 1), "f32")), [w])).toThrow(/no tensor that needs a gradient/);
  });

  it("is null only where the value is independent", async () => {
    const [a, b] = [leaf([2]), leaf([5])];
    const [da, db] = grads(k.square(a), [a, b]);
    expect(await values(da)).toEqual([4]);
    expect(db).toBeNull();
  });

  it.each(["webgpu", "reference"])("comes of a compiled step's result on %s: an error", async (kind) => {
    const body = async () => {
      const w = leaf([3]);
      const step = compile((x: Tensor) => k.sum(k.mul(k.square(w), x)));
      const x = tensor([2]);
      expect(() => backward(step(x))).toThrow(/it comes from a compiled step/);
      const other = leaf([1]);
      expect(() => grads(k.add(step(x), k.sum(other)), [other])).toThrow(/it comes from a compiled step/);
      expect(() =>
        grads(
          k.add(
            noGrad(() => step(x)),
            k.sum(other),
          ),
          [other],
        ),
      ).not.toThrow();
      const y = step(x);
      expect(await values(grads(k.square(y), [y])[0])).toEqual([36]);
    };
    await (kind === "webgpu" ? body() : withDevice(new ReferenceDevice(), body));
  });
});

describe("through a scope", () => {
  it("the leaf gets its gradient", async () => {
    const w = leaf([3]);
    const y = scope(() => scope(() => k.sum(k.square(k.mul(w, 2)))));
    backward(k.mul(y, 5));
    expect(await values(w.grad)).toEqual([5 * 8 * 3]);
    expect(y.grad).toBeNull();
  });

  it("a language model's loss keeps what its derivative saved", async () => {
    const [hidden, weight] = [leaf([0.5, -1, 2, 0.25], [2, 2]), leaf([1, 2, 3, -1, 0, 1], [3, 2])];
    const loss = () => k.linearCrossEntropy(hidden, weight, tensor([0, 2], [2], "i32")).loss;
    const inside = await values(grads(loss(), [weight])[0]);
    expect(await values(grads(scope(loss), [weight])[0])).toEqual(inside);
  });

  it("where derivatives were taken its memory is freed, and differentiating again is an error", async () => {
    const w = leaf([3, 4]);
    const before = w.device.bytesInUse;
    const { y, g } = scope(() => {
      const made = k.sum(k.square(k.mul(w, 2)));
      return { y: made, g: grads(made, [w])[0] };
    });
    const held = w.device.bytesInUse - before;
    expect(held).toBe(2 * 512);
    expect(await values(g)).toEqual([24, 32]);
    expect(() => backward(y)).toThrow(/in the scope that returned it/);
  });
});

describe("higher orders through a custom derivative", () => {
  it("of a language model's loss are those of plain ops", async () => {
    const [hidden, weight] = [leaf([0.5, -1, 2, 0.25, 1, 1], [3, 2]), leaf([1, 2, 3, -1, 0, 1], [3, 2])];
    const target = tensor([0, -100, 2], [3], "i32");
    const second = (loss: Tensor) => {
      const first = grads(loss, [hidden, weight], { createGraph: true });
      const norm = k.add(k.sum(k.square(first[0]!)), k.sum(k.square(first[1]!)));
      return grads(norm, [hidden, weight]);
    };
    const fusedLoss = k.linearCrossEntropy(hidden, weight, target).loss;
    const plain = k.sum(k.crossEntropy(k.matmul(hidden, k.transpose(weight)), target, { reduction: "none" }));
    const [fused, expected] = [second(fusedLoss), second(plain)];
    for (const i of [0, 1]) {
      const [a, b] = [await values(fused[i]), await values(expected[i])];
      expect(b.some((v) => Math.abs(v) > 0.01)).toBe(true);
      a.forEach((v, j) => {
        expect(v).toBeCloseTo(b[j], 5);
      });
    }
  });

  it("are an error through attention", () => {
    const [q, v] = [leaf([1, 2, 3, 4], [1, 1, 2, 2]), leaf([4, 3, 2, 1], [1, 1, 2, 2])];
    const [dq] = grads(k.sum(k.square(k.attention(q, q, v))), [q], { createGraph: true });
    expect(() => grads(k.sum(dq!), [q])).toThrow(/attention_backward has no derivative/);
  });

  it("are an error where backward uses what it saved", () => {
    const w = leaf([2]);
    const [y] = custom(
      "cubed",
      [w],
      () => ({ outputs: [k.mul(k.square(w), w)], saved: [k.mul(k.square(w), 3)] }),
      ([g], [slope]) => [k.mul(g!, slope!)],
    );
    const [first] = grads(y!, [w], { createGraph: true });
    expect(() => grads(first!, [w])).toThrow(/saved by cubed, which has no second derivative/);
  });
});
