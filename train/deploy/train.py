"""Goes on with a kiln run where it stopped, on as many processes as you like:

    torchrun --nproc_per_node 2 train.py

Needs torch and safetensors. Everything else lies beside this file:
  checkpoint/   the model in Hugging Face layout, and the optimizer's moments by parameter
  data/         the batches of the updates to come, in their order: [updates, rows, tokens]
  plan.json     learning rates, clipping and so on of those updates
and what it writes goes to latest/ (the same as checkpoint/; a later start goes on from it) and losses.jsonl.
"""

import argparse
import json
import os
import shutil
from contextlib import nullcontext
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

here = Path(__file__).resolve().parent


def attend(q, k, v, mask):
    """[B, heads, T, dim] each; k and v may have fewer heads, which neighbours then share."""
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)


class RMSNorm(nn.Module):
    def __init__(self, width, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps))


class LlamaAttention(nn.Module):
    def __init__(self, c):
        super().__init__()
        width, bias, self.dim = c["hidden_size"], c["attention_bias"], c["head_dim"]
        self.heads, self.kv_heads = c["num_attention_heads"], c["num_key_value_heads"]
        self.q_proj = nn.Linear(width, self.heads * self.dim, bias)
        self.k_proj = nn.Linear(width, self.kv_heads * self.dim, bias)
        self.v_proj = nn.Linear(width, self.kv_heads * self.dim, bias)
        self.o_proj = nn.Linear(self.heads * self.dim, width, bias)

    def forward(self, x, rotation, mask):
        def split(y, heads):
            return y.unflatten(-1, (heads, self.dim)).transpose(1, 2)

        def rotate(y):
            a, b = y.chunk(2, -1)
            cos, sin = rotation
            return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)

        q, k = rotate(split(self.q_proj(x), self.heads)), rotate(split(self.k_proj(x), self.kv_heads))
        return self.o_proj(attend(q, k, split(self.v_proj(x), self.kv_heads), mask))


class LlamaMlp(nn.Module):
    def __init__(self, c):
        super().__init__()
        width, inner, bias = c["hidden_size"], c["intermediate_size"], c["mlp_bias"]
        self.gate_proj, self.up_proj = nn.Linear(width, inner, bias), nn.Linear(width, inner, bias)
        self.down_proj = nn.Linear(inner, width, bias)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class LlamaBlock(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.input_layernorm = RMSNorm(c["hidden_size"], c["rms_norm_eps"])
        self.self_attn = LlamaAttention(c)
        self.post_attention_layernorm = RMSNorm(c["hidden_size"], c["rms_norm_eps"])
        self.mlp = LlamaMlp(c)

    def forward(self, x, rotation, mask):
        x = x + self.self_attn(self.input_layernorm(x), rotation, mask)
        return x + self.mlp(self.post_attention_layernorm(x))


class Llama(nn.Module):
    """Names of parameters are those of transformers' LlamaForCausalLM."""

    def __init__(self, c, inverse_frequencies):
        super().__init__()
        self.frequencies = inverse_frequencies
        self.model = nn.Module()
        self.model.embed_tokens = nn.Embedding(c["vocab_size"], c["hidden_size"])
        self.model.layers = nn.ModuleList(LlamaBlock(c) for _ in range(c["num_hidden_layers"]))
        self.model.norm = RMSNorm(c["hidden_size"], c["rms_norm_eps"])
        if not c["tie_word_embeddings"]:
            self.lm_head = nn.Linear(c["hidden_size"], c["vocab_size"], bias=False)

    @property
    def blocks(self):
        return self.model.layers

    def forward(self, tokens, positions, mask):
        frequencies = torch.tensor(self.frequencies, device=tokens.device)
        angles = positions[:, None, :, None] * frequencies
        rotation = angles.cos(), angles.sin()
        x = self.model.embed_tokens(tokens)
        for block in self.blocks:
            x = block(x, rotation, mask)
        head = self.lm_head if hasattr(self, "lm_head") else self.model.embed_tokens
        return F.linear(self.model.norm(x), head.weight)


class Conv1D(nn.Module):
    """A linear layer whose weight is [in, out], as GPT-2's checkpoints have it."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(inputs, outputs))
        self.bias = nn.Parameter(torch.empty(outputs))

    def forward(self, x):
        return x @ self.weight + self.bias


class Gpt2Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        width, eps = c["n_embd"], c["layer_norm_epsilon"]
        inner = c.get("n_inner") or 4 * width
        self.heads = c["n_head"]
        self.ln_1, self.ln_2 = nn.LayerNorm(width, eps), nn.LayerNorm(width, eps)
        self.attn, self.mlp = nn.Module(), nn.Module()
        self.attn.c_attn, self.attn.c_proj = Conv1D(width, 3 * width), Conv1D(width, width)
        self.mlp.c_fc, self.mlp.c_proj = Conv1D(width, inner), Conv1D(inner, width)

    def forward(self, x, mask):
        qkv = self.attn.c_attn(self.ln_1(x)).chunk(3, -1)
        q, k, v = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in qkv)
        x = x + self.attn.c_proj(attend(q, k, v, mask))
        return x + self.mlp.c_proj(F.gelu(self.mlp.c_fc(self.ln_2(x)), approximate="tanh"))


class Gpt2(nn.Module):
    """Names of parameters are those of transformers' GPT2LMHeadModel."""

    def __init__(self, c):
        super().__init__()
        self.transformer = t = nn.Module()
        t.wte, t.wpe = nn.Embedding(c["vocab_size"], c["n_embd"]), nn.Embedding(c["n_positions"], c["n_embd"])
        t.h = nn.ModuleList(Gpt2Block(c) for _ in range(c["n_layer"]))
        t.ln_f = nn.LayerNorm(c["n_embd"], c["layer_norm_epsilon"])
        if not c["tie_word_embeddings"]:
            self.lm_head = nn.Linear(c["n_embd"], c["vocab_size"], bias=False)

    @property
    def blocks(self):
        return self.transformer.h

    def forward(self, tokens, positions, mask):
        t = self.transformer
        x = t.wte(tokens) + t.wpe(positions)
        for block in self.blocks:
            x = block(x, mask)
        head = self.lm_head if hasattr(self, "lm_head") else t.wte
        return F.linear(t.ln_f(x), head.weight)


def loss_sum(model, batch):
    """The sum of -log p over the places with a target; a token sees those of its own segment up to itself."""
    tokens, targets, positions, segments = batch
    same = segments[:, :, None] == segments[:, None, :]
    logits = model(tokens, positions, same.tril()[:, None])
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="sum")


def make_optimizer(plan, parameters):
    """kiln decays matrices alone. Parameters without moments are held fixed."""
    matrices = [p for p in parameters.values() if p.requires_grad and p.ndim >= 2]
    vectors = [p for p in parameters.values() if p.requires_grad and p.ndim < 2]
    settings = plan["optimizer"]
    groups = [
        {"params": matrices, "weight_decay": settings["weight_decay"]},
        {"params": vectors, "weight_decay": 0.0},
    ]
    kind = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[settings["name"]]
    return kind([g for g in groups if g["params"]], lr=0.0, betas=settings["betas"], eps=settings["eps"])


def full(tensor):
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def save(folder, step, parameters, optimizer, rank):
    """Writes what checkpoint/ has: gathered by all ranks, written by the first."""
    weights = {name: full(p.detach()).cpu().contiguous() for name, p in parameters.items()}
    moments = {
        f"{moment}.{name}": full(optimizer.state[p][moment]).cpu().contiguous()
        for name, p in parameters.items()
        if p.requires_grad
        for moment in ("exp_avg", "exp_avg_sq")
    }
    if rank == 0:
        new = folder.with_name(folder.name + ".new")
        shutil.rmtree(new, ignore_errors=True)
        shutil.copytree(here / "checkpoint", new, ignore=shutil.ignore_patterns("*.safetensors", "checksums.json"))
        save_file(weights, new / "model.safetensors", metadata={"format": "pt"})
        save_file(moments, new / "optimizer.safetensors")
        (new / "trainer_state.json").write_text(json.dumps({"step": step}))
        shutil.rmtree(folder, ignore_errors=True)
        new.rename(folder)
    dist.barrier()


def main():
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strategy", choices=["ddp", "fsdp"], default="fsdp" if cuda else "ddp")
    parser.add_argument("--save-every", type=int, default=500, help="updates between latest/")
    options = parser.parse_args()
    dist.init_process_group("nccl" if cuda else "gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)

    plan = json.loads((here / "plan.json").read_text())
    start = here / "latest" if (here / "latest").exists() else here / "checkpoint"
    config = json.loads((start / "config.json").read_text())
    done = json.loads((start / "trainer_state.json").read_text())["step"]
    moments = load_file(start / "optimizer.safetensors")
    model = Llama(config, plan["inverse_frequencies"]) if config["model_type"] == "llama" else Gpt2(config)
    model.load_state_dict(load_file(start / "model.safetensors"))
    model.to(device)
    for name, p in model.named_parameters():
        p.requires_grad_(f"exp_avg.{name}" in moments)
    if options.strategy == "fsdp":
        mesh = dist.init_device_mesh("cuda" if cuda else "cpu", (world,))
        for block in model.blocks:
            fully_shard(block, mesh=mesh)
        wrapped = fully_shard(model, mesh=mesh)
    else:
        wrapped = nn.parallel.DistributedDataParallel(model, device_ids=[device.index] if cuda else None)
    parameters = dict(model.named_parameters())

    optimizer = make_optimizer(plan, parameters)
    for name, p in parameters.items():
        if not p.requires_grad:
            continue
        state = {"step": torch.tensor(float(done))}
        for moment in ("exp_avg", "exp_avg_sq"):
            value = moments[f"{moment}.{name}"].to(device)
            state[moment] = distribute_tensor(value, p.device_mesh, p.placements) if isinstance(p, DTensor) else value
        optimizer.state[p] = state

    rows = plan["batch_size"] * plan["gradient_accumulation_steps"]
    if rows % world:
        raise SystemExit(f"an update has {rows} rows, which {world} processes cannot share evenly")
    at_once = max(1, plan["batch_size"] // world)
    fields = ("tokens", "targets", "positions", "segments")
    shard, loaded = None, None
    for update in range(done - plan["step"], len(plan["learning_rates"])):
        step = plan["step"] + update + 1
        if update // plan["updates_per_shard"] != shard:
            shard = update // plan["updates_per_shard"]
            loaded = load_file(here / "data" / f"{shard:05d}.safetensors")
        inside = update % plan["updates_per_shard"]
        all_rows = [loaded[field][inside].long() for field in fields]
        supervised = max(1, int((all_rows[1] != -100).sum()))
        mine = [x[rank::world].to(device).split(at_once) for x in all_rows]
        total = torch.zeros((), device=device)
        for i, batch in enumerate(zip(*mine)):
            is_last = i + 1 == len(mine[0])
            if options.strategy == "fsdp":
                wrapped.set_requires_gradient_sync(is_last)
            with nullcontext() if is_last or options.strategy == "fsdp" else wrapped.no_sync():
                loss = loss_sum(wrapped, batch)
                # Gradients are averaged over the processes: times their number, that is the mean over all real tokens.
                (loss * world / supervised).backward()
            total += loss.detach()
        if plan["max_grad_norm"] > 0:
            nn.utils.clip_grad_norm_([p for p in parameters.values() if p.requires_grad], plan["max_grad_norm"])
        for group in optimizer.param_groups:
            group["lr"] = plan["learning_rates"][update]
        optimizer.step()
        optimizer.zero_grad()
        dist.all_reduce(total)
        if rank == 0:
            line = {"step": step, "loss": total.item() / supervised, "learning_rate": plan["learning_rates"][update]}
            print(f"step {step}/{plan['step'] + len(plan['learning_rates'])}  loss {line['loss']:.4f}", flush=True)
            with open(here / "losses.jsonl", "a") as log:
                log.write(json.dumps(line) + "\n")
        if (update + 1) % options.save_every == 0 or update + 1 == len(plan["learning_rates"]):
            save(here / "latest", step, parameters, optimizer, rank)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
