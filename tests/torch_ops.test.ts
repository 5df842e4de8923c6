import { readFileSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { grads } from "../core/autograd.ts";
import { compile } from "../core/compile.ts";
import { type Device, setDevice } from "../core/device.ts";
import { type DType, isFloat } from "../core/dtype.ts";
import type { Tensor } from "../core/tensor.ts";
import { tensor } from "../core/tensor.ts";
import * as k from "../kernels/index.ts";
import { worstRatio } from "./support/ops_harness.ts";

/*
Each op beside the expression of PyTorch that it must equal: values and dtypes of the results, and the derivatives of
sum(result * weights) with respect to the floats that it reads. The numbers of PyTorch 2.13 on the CPU are made by:

import json, re, torch
torch.manual_seed(0)
r = lambda *s: (torch.randn(s) * 64).round() / 64
ins = dict(x=r(3, 4), y=r(3, 4), s=r(3, 3), m=r(2, 3, 4), n=r(2, 4, 5), v=r(4), w=r(3), u=r(5).sort().values,
  z=torch.tensor([[0, 2., 0, 3], [1, 0, 0, 5], [0, 0, 0, 0]]), t=torch.tensor([2., 1, 2, 2, 1]),
  i=torch.randint(-9, 10, (3, 4), dtype=torch.int32), j=torch.randint(-9, 10, (4, 2), dtype=torch.int32),
  c=torch.tensor([2, 0, 2, 1], dtype=torch.int32), e=torch.tensor([[0, 2, 2, 0], [1, 0, 2, 0]], dtype=torch.int32),
  d=torch.tensor([[0, 2, 1, 0], [1, 0, 2, 2]], dtype=torch.int32),
  b=torch.tensor([[1, 0, 1, 1], [0, 0, 0, 0], [1, 1, 1, 1]], dtype=torch.bool))
names = {torch.float32: "f32", torch.int64: "i32", torch.int32: "i32", torch.bool: "bool"}
show = lambda t: dict(dtype=names[t.dtype], shape=list(t.shape), values=[round(v, 6) for v in t.flatten().tolist()])
out = dict(inputs={a: show(t) for a, t in ins.items()}, results={})
for e in re.findall(r'^  "(.+)": ', open("tests/torch_ops.test.ts").read().rsplit("const fixture", 1)[0], re.M):
  leaf = {a: t.clone().requires_grad_(t.is_floating_point()) for a, t in ins.items()}
  ys = eval(e, {"torch": torch, "L": lambda t: t.long(), "inf": float("inf"), **leaf})
  ys = list(ys) if isinstance(ys, (tuple, list)) else [ys]
  loss = sum((y * (((torch.arange(y.numel()) * 7) % 11 - 5) / 4).reshape(y.shape)).sum() for y in ys if y.requires_grad)
  if torch.is_tensor(loss): loss.backward()
  out["results"][e] = dict(outputs=[show(y) for y in ys], grads={a: show(t.grad) for a, t in leaf.items() if t.grad is not None})
json.dump(out, open("tests/fixtures/torch_ops.json", "w"))
*/

interface Stored {
  dtype: DType;
  shape: number[];
  values: number[];
}
interface Fixture {
  inputs: Record<string, Stored>;
  results: Record<string, { outputs: Stored[]; grads: Record<string, Stored> }>;
}
type Inputs = Record<string, Tensor>;
type Made = Tensor | readonly Tensor[];

const ours: Record<string, (t: Inputs) => Made | Promise<Made>> = {
  "torch.arange(5)": () => k.arange(5),
  "torch.arange(7, 1, -2)": () => k.arange(7, 1, -2),
  "torch.arange(1, 2, 0.25)": () => k.arange(1, 2, 0.25),
  "torch.linspace(-1, 2, 7)": () => k.linspace(-1, 2, 7),
  "torch.eye(3, 4)": () => k.eye(3, 4),
  "torch.zeros_like(i)": ({ i }) => k.zerosLike(i),
  "torch.ones_like(x)": ({ x }) => k.onesLike(x),
  "torch.full_like(x, 7)": ({ x }) => k.fullLike(x, 7),
  "torch.nn.functional.one_hot(L(e), 4)": ({ e }) => k.oneHot(e, 4, "i32"),
  "torch.meshgrid(v, w, indexing='ij')": ({ v, w }) => k.meshgrid([v, w]),
  "torch.meshgrid(v, w, u, indexing='xy')": ({ v, w, u }) => k.meshgrid([v, w, u], "xy"),
  "torch.diag(v)": ({ v }) => k.diag(v),
  "torch.diag(w, 2)": ({ w }) => k.diag(w, 2),
  "torch.diag(w, -1)": ({ w }) => k.diag(w, -1),
  "torch.diag(x, 1)": ({ x }) => k.diag(x, 1),
  "torch.diagonal(m, -1, 2, 0)": ({ m }) => k.diagonal(m, -1, 2, 0),
  "torch.diagonal(m, 0, 1, 2)": ({ m }) => k.diagonal(m, 0, 1, 2),
  "torch.roll(x, 5)": ({ x }) => k.roll(x, 5),
  "torch.roll(x, (1, -2), (0, 1))": ({ x }) => k.roll(x, [1, -2], [0, 1]),
  "torch.flip(x, (0, 1))": ({ x }) => k.flip(x, [0, 1]),
  "torch.tile(x, (2, 1, 2))": ({ x }) => k.tile(x, [2, 1, 2]),
  "torch.tile(m, (2,))": ({ m }) => k.tile(m, 2),
  "x.repeat(2, 3)": ({ x }) => k.repeat(x, [2, 3]),
  "torch.repeat_interleave(x, 2)": ({ x }) => k.repeatInterleave(x, 2),
  "torch.repeat_interleave(x, 3, 0)": ({ x }) => k.repeatInterleave(x, 3, 0),
  "torch.chunk(v, 3)": ({ v }) => k.chunk(v, 3),
  "torch.chunk(x, 2, 1)": ({ x }) => k.chunk(x, 2, 1),
  "torch.split(x, (1, 3), 1)": ({ x }) => k.split(x, [1, 3], 1),
  "torch.unbind(m, 1)": ({ m }) => k.unbind(m, 1),
  "torch.stack((x, y), 1)": ({ x, y }) => k.stack([x, y], 1),
  "torch.movedim(m, 0, 2)": ({ m }) => k.movedim(m, 0, 2),
  "torch.movedim(m, (0, 2), (1, 0))": ({ m }) => k.movedim(m, [0, 2], [1, 0]),
  "torch.swapaxes(m, 0, 2)": ({ m }) => k.swapaxes(m, 0, 2),
  "torch.any(b, 1)": ({ b }) => k.any(b, 1),
  "torch.any(z)": ({ z }) => k.any(z),
  "torch.all(b, 1, keepdim=True)": ({ b }) => k.all(b, 1, true),
  "torch.all(b)": ({ b }) => k.all(b),
  "torch.count_nonzero(z, 0)": ({ z }) => k.countNonzero(z, 0),
  "torch.std(x)": ({ x }) => k.std(x),
  "torch.std(x, 1, correction=0, keepdim=True)": ({ x }) => k.std(x, 1, 0, true),
  "torch.std(z, 1)": ({ z }) => k.std(z, 1),
  "torch.var(m, (0, 2))": ({ m }) => k.var(m, [0, 2]),
  "torch.norm(x)": ({ x }) => k.norm(x),
  "torch.norm(z, dim=1)": ({ z }) => k.norm(z, 2, 1),
  "torch.norm(m, 'fro', (1, 2), True)": ({ m }) => k.norm(m, "fro", [1, 2], true),
  "torch.norm(x, 1, 0)": ({ x }) => k.norm(x, 1, 0),
  "torch.norm(x, inf, 1)": ({ x }) => k.norm(x, Number.POSITIVE_INFINITY, 1),
  "torch.norm(x, -inf, 1)": ({ x }) => k.norm(x, Number.NEGATIVE_INFINITY, 1),
  "torch.norm(z.detach(), 0, 1)": ({ z }) => k.norm(z.detach(), 0, 1),
  "torch.cumprod(x, 1)": ({ x }) => k.cumprod(x, 1),
  "torch.cumprod(z + 1, 0)": ({ z }) => k.cumprod(k.add(z, 1), 0),
  "torch.cumprod(z, 1)": ({ z }) => k.cumprod(z, 1),
  "torch.logsumexp(x, 1)": ({ x }) => k.logsumexp(x, 1),
  "torch.median(x)": ({ x }) => k.median(x),
  "torch.median(x, 1).values": ({ x }) => k.median(x, 1),
  "torch.einsum('ij,ij->i', x, y)": ({ x, y }) => k.einsum("ij,ij->i", x, y),
  "torch.einsum('bij,bjk', m, n)": ({ m, n }) => k.einsum("bij,bjk", m, n),
  "torch.einsum('bij,bjk->kib', m, n)": ({ m, n }) => k.einsum("bij,bjk->kib", m, n),
  "torch.einsum('...ij,...jk->...ik', x, n)": ({ x, n }) => k.einsum("...ij,...jk->...ik", x, n),
  "torch.einsum('a...,a...->...', m, m)": ({ m }) => k.einsum("a...,a...->...", m, m),
  "torch.einsum('ii->i', s)": ({ s }) => k.einsum("ii->i", s),
  "torch.einsum('ii', s)": ({ s }) => k.einsum("ii", s),
  "torch.einsum('iii->', s[0, 0].expand(2, 2, 2))": ({ s }) =>
    k.einsum("iii->", k.expand(k.select(k.select(s, 0, 0), 0, 0), [2, 2, 2])),
  "torch.einsum('ba', x)": ({ x }) => k.einsum("ba", x),
  "torch.einsum('i,j,k->kij', v, w, u)": ({ v, w, u }) => k.einsum("i,j,k->kij", v, w, u),
  "torch.einsum('ij,kj,kl,l->i', x, x, y, v)": ({ x, y, v }) => k.einsum("ij,kj,kl,l->i", x, x, y, v),
  "torch.einsum('ij,jj->j', s, s)": ({ s }) => k.einsum("ij,jj->j", s, s),
  "torch.einsum('ij,jk->ik', i, j)": ({ i, j }) => k.einsum("ij,jk->ik", i, j),
  "torch.tensordot(m, n, ((0, 2), (0, 1)))": ({ m, n }) =>
    k.tensordot(m, n, [
      [0, 2],
      [0, 1],
    ]),
  "torch.tensordot(x, v, 1)": ({ x, v }) => k.tensordot(x, v, 1),
  "torch.outer(v, w)": ({ v, w }) => k.outer(v, w),
  "torch.dot(v, v)": ({ v }) => k.dot(v, v),
  "torch.mv(x, v)": ({ x, v }) => k.mv(x, v),
  "torch.mm(s, x)": ({ s, x }) => k.mm(s, x),
  "torch.bmm(m, n)": ({ m, n }) => k.bmm(m, n),
  "i @ j": ({ i, j }) => k.matmul(i, j),
  "c @ j": ({ c, j }) => k.matmul(c, j),
  "i @ c": ({ i, c }) => k.matmul(i, c),
  "i.expand(2, 3, 4) @ j": ({ i, j }) => k.matmul(k.expand(i, [2, 3, 4]), j),
  "torch.gather(x, 0, L(e))": ({ x, e }) => k.gather(x, 0, e),
  "torch.take_along_dim(x, L(e), 0)": ({ x, e }) => k.takeAlongDim(x, e, 0),
  "torch.take_along_dim(x, L(e[:1]), 1)": ({ x, e }) => k.takeAlongDim(x, k.narrow(e, 0, 0, 1), 1),
  "torch.take_along_dim(x, L(e))": ({ x, e }) => k.takeAlongDim(x, e),
  "torch.scatter(x, 0, L(d), y[:2])": ({ x, y, d }) => k.scatter(x, 0, d, k.narrow(y, 0, 0, 2)),
  "torch.scatter(x, 1, L(e), 7.0)": ({ x, e }) => k.scatter(x, 1, e, 7),
  "torch.scatter(i, 0, L(d), i)": ({ i, d }) => k.scatter(i, 0, d, i),
  "torch.scatter_add(x, 0, L(e), y[:2])": ({ x, y, e }) => k.scatterAdd(x, 0, e, k.narrow(y, 0, 0, 2)),
  "torch.scatter_add(x, 1, L(e[:, :3]), y[:2, :3])": ({ x, y, e }) =>
    k.scatterAdd(x, 1, k.narrow(e, 1, 0, 3), k.narrow(k.narrow(y, 0, 0, 2), 1, 0, 3)),
  "torch.scatter_add(i, 0, L(e), i)": ({ i, e }) => k.scatterAdd(i, 0, e, i),
  "torch.scatter_reduce(x, 0, L(e), y[:2], 'sum', include_self=True)": ({ x, y, e }) =>
    k.scatterReduce(x, 0, e, k.narrow(y, 0, 0, 2), "sum", true),
  "torch.scatter_reduce(x, 0, L(e), y[:2], 'sum', include_self=False)": ({ x, y, e }) =>
    k.scatterReduce(x, 0, e, k.narrow(y, 0, 0, 2), "sum", false),
  "torch.scatter_reduce(x, 0, L(e), y[:2], 'prod', include_self=True)": ({ x, y, e }) =>
    k.scatterReduce(x, 0, e, k.narrow(y, 0, 0, 2), "prod", true),
  "torch.scatter_reduce(x, 0, L(e), y[:2], 'prod', include_self=False)": ({ x, y, e }) =>
    k.scatterReduce(x, 0, e, k.narrow(y, 0, 0, 2), "prod", false),
  "torch.scatter_reduce(x, 0, L(e), y[:2], 'mean', include_self=True)": ({ x, y, e }) =>
    k.scatterReduce(x, 0, e, k.narrow(y, 0, 0, 2), "mean", true),
  "torch.scatter_reduce(x, 0, L(e), y[:2], 'mean', include_self=False)": ({ x, y, e }) =>
    k.scatterReduce(x, 0, e, k.narrow(y, 0, 0, 2), "mean", false),
  "torch.scatter_reduce(x, 0, L(e), y[:2], 'amax', include_self=True)": ({ x, y, e }) =>
    k.scatterReduce(x, 0, e, k.narrow(y, 0, 0, 2), "amax", true),
  "torch.scatter_reduce(x, 0, L(e), y[:2], 'amax', include_self=False)": ({ x, y, e }) =>
    k.scatterReduce(x, 0, e, k.narrow(y, 0, 0, 2), "amax", false),
  "torch.scatter_reduce(x, 0, L(e), y[:2], 'amin', include_self=True)": ({ x, y, e }) =>
    k.scatterReduce(x, 0, e, k.narrow(y, 0, 0, 2), "amin", true),
  "torch.scatter_reduce(x, 0, L(e), y[:2], 'amin', include_self=False)": ({ x, y, e }) =>
    k.scatterReduce(x, 0, e, k.narrow(y, 0, 0, 2), "amin", false),
  "torch.scatter_reduce(z, 1, L(e), z[1:], 'prod')": ({ z, e }) =>
    k.scatterReduce(z, 1, e, k.narrow(z, 0, 1, 2), "prod"),
  "torch.scatter_reduce(z, 1, L(e), z[1:], 'amax')": ({ z, e }) =>
    k.scatterReduce(z, 1, e, k.narrow(z, 0, 1, 2), "amax"),
  "torch.scatter_reduce(i, 0, L(e), i[1:], 'amin', include_self=False)": ({ i, e }) =>
    k.scatterReduce(i, 0, e, k.narrow(i, 0, 1, 2), "amin", false),
  "torch.index_add(x, 1, L(c), y, alpha=2)": ({ x, y, c }) => k.indexAdd(x, 1, c, y, 2),
  "torch.index_add(i, 1, c, i)": ({ i, c }) => k.indexAdd(i, 1, c, i),
  "torch.index_copy(x, 0, L(c[1:]), y)": ({ x, y, c }) => k.indexCopy(x, 0, k.narrow(c, 0, 1, 3), y),
  "torch.index_select(i, 1, L(c))": ({ i, c }) => k.indexSelect(i, 1, c),
  "torch.argsort(x, 1)": ({ x }) => k.argsort(x, 1),
  "torch.argsort(t, descending=True, stable=True)": ({ t }) => k.argsort(t, -1, true),
  "torch.searchsorted(u.detach(), x.detach())": ({ u, x }) => k.searchsorted(u, x),
  "torch.searchsorted(t.detach().sort().values, t.detach(), right=True)": ({ t }) =>
    k.searchsorted(k.sort(t).values, t, true),
  "torch.searchsorted(x.detach().sort(1).values, y.detach())": ({ x, y }) =>
    k.searchsorted(k.sort(x).values, y),
  "torch.nonzero(z)": ({ z }) => k.nonzero(z),
  "torch.nonzero(m > 0.5)": ({ m }) => k.nonzero(k.gt(m, 0.5)),
  "torch.masked_select(x, b)": ({ x, b }) => k.maskedSelect(x, b),
  "torch.unique(t.detach(), return_inverse=True, return_counts=True)": async ({ t }) =>
    Object.values(await k.unique(t)),
  "torch.unique(i, return_inverse=True, return_counts=True)": async ({ i }) =>
    Object.values(await k.unique(i)),
  "torch.bincount(c, minlength=5)": ({ c }) => k.bincount(c, { minlength: 5 }),
  "torch.bincount(c, v.detach())": ({ c, v }) => k.bincount(c, { weights: v }),
};

const fixture: Fixture = JSON.parse(
  readFileSync(new URL("fixtures/torch_ops.json", import.meta.url), "utf8"),
);
const devices: Record<string, () => Promise<Device>> = {
  "this adapter": () => k.openDevice(),
  "the reference": async () => k.openReference(),
};

for (const [where, open] of Object.entries(devices)) {
  describe(`ops as in PyTorch, on ${where}`, () => {
    beforeAll(async () => {
      setDevice(await open());
    });
    afterAll(() => setDevice(null));

    it("has numbers for each op of the table", () => {
      expect(Object.keys(fixture.results)).toEqual(Object.keys(ours));
    });
    for (const [name, op] of Object.entries(ours)) it(name, () => compare(name, op));

    it("draws the same numbers again from a seed, and each of a permutation once", async () => {
      expect(await k.randint(-3, 4, [50], 7).data()).toEqual(await k.randint(-3, 4, [50], 7).data());
      expect(new Set(await k.randint(-3, 4, [99], 7).data())).toEqual(new Set([-3, -2, -1, 0, 1, 2, 3]));
      const order = await k.randperm(200, 5).data();
      expect(order.toSorted()).toEqual(Int32Array.from({ length: 200 }, (_, i) => i));
      expect(order).not.toEqual(await k.randperm(200, 6).data());
    });

    it("calls each NaN a value of its own, and both zeros one", async () => {
      const { values, counts } = await k.unique(tensor([Number.NaN, 0, Number.NaN, -0]));
      expect(Array.from(await values.data())).toEqual([expect.closeTo(0), Number.NaN, Number.NaN]);
      expect(Array.from(await counts.data())).toEqual([2, 1, 1]);
    });

    it("finds nothing in nothing", async () => {
      expect((await k.nonzero(tensor([], [0, 3]))).shape).toEqual([0, 2]);
      expect((await k.nonzero(tensor(5))).shape).toEqual([1, 0]);
      expect((await k.unique(tensor([]))).counts.shape).toEqual([0]);
      expect(Array.from(await (await k.bincount(tensor([], [0], "i32"), { minlength: 2 })).data())).toEqual([
        0, 0,
      ]);
    });
  });
}

async function compare(name: string, op: (t: Inputs) => Made | Promise<Made>): Promise<void> {
  const inputs: Inputs = {};
  for (const [key, { values, shape, dtype }] of Object.entries(fixture.inputs)) {
    inputs[key] = tensor(values, shape, dtype);
    if (isFloat(dtype)) inputs[key].requireGrad();
  }
  const { outputs, grads: derivatives } = fixture.results[name];
  const made = await op(inputs);
  const results = Array.isArray(made) ? (made as readonly Tensor[]) : [made as Tensor];
  expect(results.length).toBe(outputs.length);
  for (const [i, t] of results.entries()) await same(t, outputs[i], `result ${i}`);
  const roots = results.filter((t) => t.requiresGrad);
  const read = Object.keys(derivatives);
  if (read.length === 0) return;
  const cotangents = roots.map((t) =>
    tensor(
      Array.from({ length: t.size }, (_, i) => (((i * 7) % 11) - 5) / 4),
      t.shape,
    ),
  );
  const found = grads(
    roots,
    read.map((key) => inputs[key]),
    { cotangents },
  );
  for (const [i, key] of read.entries()) {
    expect(found[i], `derivative of ${key}`).not.toBeNull();
    await same(found[i]!, derivatives[key], `derivative of ${key}`);
  }
}

async function same(t: Tensor, { dtype, shape, values }: Stored, what: string): Promise<void> {
  expect([t.dtype, ...t.shape], what).toEqual([dtype, ...shape]);
  const data = await t.data();
  // The fixture has six decimals.
  const ratio = worstRatio(data, values, 2e-5, 2e-5);
  expect(ratio, `${what}: ${data} for ${values}`).toBeLessThanOrEqual(1);
}

describe("what is refused", () => {
  beforeAll(async () => {
    await k.openDevice();
  });
  afterAll(() => setDevice(null));
  const refusing: Record<string, (x: Tensor) => unknown> = {
    nonzero: k.nonzero,
    unique: k.unique,
    maskedSelect: (x) => k.maskedSelect(x, k.gt(x, 0)),
    bincount: (x) => k.bincount(k.cast(x, "i32")),
  };
  for (const [name, op] of Object.entries(refusing))
    it(`${name}: the shape of the result depends on values`, () => {
      expect(() => compile((x: Tensor) => op(x) as Tensor)(tensor([1, 2]))).toThrow(`${name}: the shape`);
    });

  it("refuses the second derivative of a scattered product", () => {
    const x = tensor([1, 2]).requireGrad();
    const y = k.scatterReduce(x, 0, tensor([0], [1], "i32"), tensor([3]), "prod");
    expect(() => grads(k.sum(y), [x], { createGraph: true })).toThrow("has no second derivative");
  });
});
