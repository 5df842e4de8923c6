"""PyTorch on this machine's processor, all of its cores: an update of a model, or answers of one, for torch.mjs. A line of JSON in,
one out."""
import json
import os
import sys
import time

import torch

torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())


def classify(vocabulary, width, layers, heads, rows, length):
    from transformers import DistilBertConfig, DistilBertForSequenceClassification

    config = DistilBertConfig(vocab_size=vocabulary, dim=width, hidden_dim=4 * width, n_layers=layers, n_heads=heads,
                              dropout=0, attention_dropout=0, seq_classif_dropout=0)
    model = DistilBertForSequenceClassification(config)
    tokens = torch.randint(0, vocabulary, (rows, length))
    labels = torch.arange(rows) % 2
    return model, lambda: model(input_ids=tokens, labels=labels).loss


def lora(vocabulary, width, layers, heads, rows, length, rank):
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(vocab_size=vocabulary, hidden_size=width, intermediate_size=4 * width,
                         num_hidden_layers=layers, num_attention_heads=heads, max_position_embeddings=length)
    adapter = LoraConfig(r=rank, lora_alpha=16, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(LlamaForCausalLM(config), adapter)
    tokens = torch.randint(0, vocabulary, (rows, length))
    return model, lambda: model(input_ids=tokens, labels=tokens).loss


def update_of(model, loss):
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3, weight_decay=0.1)

    def update():
        loss().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return update


def streams(count, prompt, tokens, file):
    """transformers' generate, greedy, a batch of `count` prompts that are new each time."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(file.removesuffix(".gguf"), dtype=torch.float32)
    length = {"min_new_tokens": tokens, "max_new_tokens": tokens, "do_sample": False, "pad_token_id": 0}

    @torch.no_grad()
    def answers():
        ids = torch.randint(0, model.config.vocab_size, (count, prompt))
        model.generate(ids, attention_mask=torch.ones_like(ids), **length)

    return answers


print(json.dumps({"version": torch.__version__}), flush=True)
work = None
for line in sys.stdin:
    asked = json.loads(line)
    if "op" in asked:
        if asked["op"] == "streams":
            work = streams(*asked["sizes"], asked["file"])
        else:
            work = update_of(*{"classify": classify, "lora": lora}[asked["op"]](*asked["sizes"]))
    else:
        for _ in range(asked["times"]):
            work()
    print(json.dumps({"cpu_ms": time.process_time() * 1e3}), flush=True)
