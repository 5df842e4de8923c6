import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, it } from "vitest";
import { dispose } from "../core/scope.ts";
import { openDevice } from "../kernels/index.ts";
import { LlamaForCausalLM } from "../models/llama.ts";
import { tinyllmConfig } from "../models/llama_config.ts";
import { Tokenizer, trainBpe } from "../tokenizer/index.ts";
import { cachedShard, PackedBatches, storySource } from "../train/data/index.ts";
import { AdamW } from "../train/optimizers/index.ts";
import { Trainer } from "../train/trainer.ts";

// In a process of its own: garbage of other tests that is collected meanwhile would hide or feign a leak.
it("training holds as many bytes after step 100 as after step 10", async () => {
  const gpu = await openDevice();
  const source = storySource({ seed: 1, stories: 30 });
  const texts: string[] = [];
  for await (const { text } of source.documents()) texts.push(text);
  const tokenizer = new Tokenizer(trainBpe(texts, { vocab_size: 300, special_tokens: ["<|endoftext|>"] }));
  const { shard } = await cachedShard(source, tokenizer, mkdtempSync(join(tmpdir(), "kiln-leak-")));
  const sequenceLength = 24;
  const data = new PackedBatches(shard, shard.documents, { batchSize: 4, seqLen: sequenceLength, seed: 2 });
  const shape = { hidden_size: 16, num_hidden_layers: 2, num_attention_heads: 2 };
  const model = new LlamaForCausalLM(tinyllmConfig({ vocab_size: tokenizer.vocabSize, ...shape })).init(7);
  const trainer = new Trainer(model, new AdamW(model.namedParameters()), { maxGradNorm: 1, sequenceLength });
  const bytes = new Map<number, number>();
  for (let step = 1; step <= 100; step++) {
    const pieces = step % 3 === 0 ? 2 : 1;
    const { lossSum, gradNorm } = trainer.step(
      Array.from({ length: pieces }, () => data.next()),
      1e-3,
    );
    await lossSum.item();
    dispose([lossSum, gradNorm]);
    if (step % 5 === 0) dispose(trainer.evaluate(data.next()));
    bytes.set(step, gpu.bytesInUse);
  }
  expect(bytes.get(100)).toBe(bytes.get(10));
  expect(bytes.get(10)).toBeGreaterThan(0);
});
