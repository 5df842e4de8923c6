/** Extents of the GPU rows: those of PyTorch's ruler (torch_bench.py), or small ones to see that everything runs. */
export interface GpuSizes {
  /** Square products, the largest last. */
  squares: number[];
  /** Tokens, width, inner width of a transformer's products; its vocabulary; a small batch; a vector's product. */
  tokens: number;
  width: number;
  inner: number;
  vocabulary: number;
  fewTokens: number;
  vector: number;
  /** Rows and width of kernels that pass over rows, the larger last. */
  matrices: [number, number][];
  /** Batch, heads, length, head width. */
  attention: [number, number, number, number];
  /** How many parameters of how many numbers AdamW updates. */
  adam: [number, number];
  models: { tinyllm: ModelSize; gpt2: ModelSize };
  /** Sequences that are decoded together, prompt tokens, new tokens. */
  decode: { batches: number[]; prompt: number; fresh: number };
}

/** A GPT-2 and the batch it is trained on. */
export interface ModelSize {
  /** The ruler's name of it. */
  task: string;
  config: { vocab_size: number; n_positions: number; n_embd: number; n_layer: number; n_head: number };
  rows: number;
  length: number;
}

export const fullSizes: GpuSizes = {
  squares: [512, 1024, 4096],
  tokens: 8192,
  width: 768,
  inner: 3072,
  vocabulary: 50257,
  fewTokens: 64,
  vector: 4096,
  matrices: [
    [8192, 768],
    [16384, 4096],
  ],
  attention: [8, 12, 1024, 64],
  adam: [124, 1_000_000],
  models: {
    tinyllm: {
      task: "tinyllm_128x4",
      config: { vocab_size: 4096, n_positions: 512, n_embd: 128, n_layer: 4, n_head: 4 },
      rows: 64,
      length: 256,
    },
    gpt2: {
      task: "gpt2_124M",
      config: { vocab_size: 50257, n_positions: 1024, n_embd: 768, n_layer: 12, n_head: 12 },
      rows: 8,
      length: 1024,
    },
  },
  decode: { batches: [1, 16, 128], prompt: 64, fresh: 128 },
};

export const quickSizes: GpuSizes = {
  squares: [16, 32, 64],
  tokens: 64,
  width: 32,
  inner: 64,
  vocabulary: 97,
  fewTokens: 4,
  vector: 64,
  matrices: [
    [64, 32],
    [128, 64],
  ],
  attention: [1, 2, 32, 16],
  adam: [3, 1000],
  models: {
    tinyllm: {
      task: "tinyllm_32x1",
      config: { vocab_size: 96, n_positions: 64, n_embd: 32, n_layer: 1, n_head: 2 },
      rows: 2,
      length: 16,
    },
    gpt2: {
      task: "gpt2_64x2",
      config: { vocab_size: 97, n_positions: 64, n_embd: 64, n_layer: 2, n_head: 2 },
      rows: 2,
      length: 32,
    },
  },
  decode: { batches: [1, 2, 3], prompt: 5, fresh: 3 },
};
