import { spawn } from "node:child_process";
import { fileURLToPath } from "node:url";
import { expect, it } from "vitest";

/** Examples that end in a number: what they print, at the toy size that they have by default. */
const root = fileURLToPath(new URL("..", import.meta.url));

function run(name: string): Promise<string> {
  const child = spawn(
    process.execPath,
    ["--import", import.meta.resolve("tsx"), `docs/examples/${name}.ts`],
    {
      cwd: root,
      env: { ...process.env, TSX_TSCONFIG_PATH: `${root}/tsconfig.json` },
    },
  );
  let text = "";
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (data) => (text += data));
  return new Promise((resolve, reject) =>
    child.once("close", (code) => (code === 0 ? resolve(text) : reject(new Error(text)))),
  );
}

/** The number after a text. */
function after(text: string, words: string): number {
  const [, number] = new RegExp(`${words.replaceAll(/[.()]/g, "\\$&")}[: ]+(-?[\\d.]+)`).exec(text) ?? [];
  return Number(number ?? Number.NaN);
}

it("private_sgd: the accountant's epsilons are the published ones, and clipping holds", async () => {
  const text = await run("private_sgd");
  expect(after(text, "published 1.26, epsilon")).toBeCloseTo(1.26, 2);
  expect(after(text, "published 3.01, epsilon")).toBeCloseTo(3.01, 2);
  const [open, hidden] = [after(text, "without privacy: accuracy"), after(text, "delta 0.001: accuracy")];
  expect(open).toBeGreaterThan(0.75);
  // Chance is a quarter; noise may cost something, and does not help.
  expect(hidden).toBeGreaterThan(0.6);
  expect(hidden).toBeLessThan(open + 0.03);
  expect(after(text, "by more than")).toBeLessThan(1.0001);
});

it("federated_lora: together the clients learn what one alone does not, nearly as well as in one place", async () => {
  const text = await run("federated_lora");
  const [base, alone, federated, pooled] = ["base", "alone", "federated", "pooled"].map((name) =>
    after(text, name),
  );
  expect(federated!).toBeLessThan(base!);
  expect(alone! - federated!).toBeGreaterThan(0.15);
  expect(federated!).toBeLessThan(pooled! + 0.1);
  expect(after(text, "in a round:") / after(text, "numbers of")).toBeLessThan(1 / 2);
});

it("compression: a table of bytes, time and quality; each step is smaller", async () => {
  const text = await run("compression");
  const rows = [...text.matchAll(/^(.+): (\d+) bytes, ([\d.]+) ms a batch, ([\d.]+) nats/gm)];
  const of = Object.fromEntries(
    rows.map(([, name, bytes, , nats]) => [name, { bytes: +bytes!, nats: +nats! }]),
  );
  expect(Object.keys(of)).toEqual(["as it is", "distilled", "quantised", "both"]);
  const { "as it is": whole, distilled, quantised, both } = of;
  expect(distilled!.bytes / whole!.bytes).toBe(1 / 2);
  expect(quantised!.bytes / whole!.bytes).toBeLessThan(0.14);
  expect(both!.bytes / quantised!.bytes).toBeCloseTo(1 / 2, 3);
  // Four bits cost next to nothing here, half the layers something; all have learnt.
  expect(Math.abs(quantised!.nats - whole!.nats)).toBeLessThan(0.05);
  expect(distilled!.nats - whole!.nats).toBeLessThan(0.6);
  for (const { nats } of Object.values(of)) expect(nats).toBeLessThan(after(text, "chance") - 0.5);
});

it("multilingual_bytes: every script goes through the whole chain and comes out whole", async () => {
  const text = await run("multilingual_bytes");
  expect(text).toContain("8 texts are the same after ids and back");
  const bits = [...text.matchAll(/: ([\d.]+) bits a byte/g)].map(([, each]) => Number(each));
  expect(bits).toHaveLength(8);
  for (const each of bits) expect(each).toBeLessThan(1);
  expect(text).toContain("8 of 8 texts are written to their end, 0 pieces with a broken character");
});

it("feedback_lora: thumbs of each round make the answers calmer where nobody rated them", async () => {
  const text = await run("feedback_lora");
  const before = after(text, "before");
  const [first, second] = [...text.matchAll(/calm ([\d.]+)$/gm)].map(([, share]) => Number(share));
  expect(before).toBeGreaterThan(0.35);
  expect(before).toBeLessThan(0.65);
  expect(first!).toBeGreaterThan(before + 0.1);
  expect(second!).toBeGreaterThan(first!);
  const down = [...text.matchAll(/: (\d+) of \d+ answers/g)].map(([, count]) => Number(count));
  expect(down[1]!).toBeLessThan(down[0]!);
});

it("transfer_logits: a student with another tokenizer writes better for what its teacher says", async () => {
  const text = await run("transfer_logits");
  const [chance, alone, taught] = ["chance", "alone", "taught"].map((name) => after(text, name));
  expect(after(text, "says something")).toBeGreaterThan(0.3);
  expect(alone!).toBeLessThan(chance!);
  expect(alone! - taught!).toBeGreaterThan(0.2);
});
