// The whole of `kiln train pretrain` from code: data, tokenizer, model, checkpoints and log in a run folder, which a second
// call with `resume=true` would go on with. The sizes are toys; `npx kiln settings` lists every setting and its default.
import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { openDevice } from "kiln";
import { samplerOf } from "kiln/serve";
import { pretrain } from "kiln/train";

await openDevice();
const toy = [
  `out_dir=${mkdtempSync(path.join(tmpdir(), "kiln-"))}`,
  "data.corpus.stories=40",
  "tokenizer.vocab_size=300",
  "model.hidden_size=32",
  "train.steps=4",
  "train.warmup_steps=1",
  "train.batch_size=2",
  "train.sequence_length=32",
  "eval.tokens=64",
  "sample.max_tokens=8",
];
const { modelDir, steps, trainLoss } = await pretrain({ set: toy, makeSampler: samplerOf });
console.log(`${steps} steps, loss ${trainLoss?.toFixed(2)}, model in ${modelDir}`);
