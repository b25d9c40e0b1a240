"""An attribution graph beside plain backward passes for as many rows, and what it forms.

GPT-2 small's shape with random weights, random TopK transcoders (6,144 features, 32 active), 32 tokens; some 2,000
features and the likeliest logits are split among all that wrote them. The floor is autograd: the same number of rows,
64 at a time through one retained graph of the frozen model, without any contraction.

    python benchmarks/attribution_graphs.py [--threads 2]
"""

from __future__ import annotations

import argparse
import time

import torch
from transformers import GPT2Config, GPT2LMHeadModel

import caseback as cb
from caseback.decode.dictionaries import Facts, TopK
from caseback.localize.circuits import attribution_graph


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--positions", type=int, default=32)
    parser.add_argument("--nodes", type=int, default=2000)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    model = cb.load(GPT2LMHeadModel(GPT2Config()).eval())
    d = model.d_model
    prompt = torch.randint(0, 50257, (1, given.positions)).tolist()
    transcoders = [
        TopK(d, 6144, k=32, seed=i, facts=Facts(site=f"mlp_norm.{i}", target=f"mlp_out.{i}")) for i in range(12)
    ]
    rows, plain = given.nodes, plain_rows(model, prompt, given.nodes)
    began = time.perf_counter()
    graph = attribution_graph(model, prompt, transcoders, max_nodes=given.nodes, first=0)
    whole = time.perf_counter() - began
    began = time.perf_counter()
    every = attribution_graph(model, prompt, transcoders, max_nodes=10**6, first=0)
    unpruned = time.perf_counter() - began
    print(f"{rows:,} rows of plain backward, 64 at a time: {plain:.2f} s")
    print(f"graph of {graph.sizes['reader']:,} readers chosen of {graph.attrs['active']:,}: {whole:.2f} s, "
          f"{whole / plain:.2f} of it")  # fmt: skip
    print(f"graph of all {every.sizes['reader']:,} readers: {unpruned:.2f} s, "
          f"{unpruned / plain * rows / every.sizes['reader']:.2f} of it a row")  # fmt: skip
    print(f"rows miss their readers' values by {graph.attrs['gap']:.1e}")


def plain_rows(model: cb.Model, prompt: list[list[int]], rows: int, at_once: int = 64) -> float:
    """Seconds of so many vector-Jacobian rows from the last stream, the prompt repeated, one graph retained."""
    hf = model.hf
    ids = torch.tensor(prompt).expand(at_once, -1)
    embedded = hf.transformer.wte(ids).detach().requires_grad_()
    out = hf.transformer(inputs_embeds=embedded).last_hidden_state
    vectors = torch.randn(out.shape)
    torch.autograd.grad(out, embedded, vectors, retain_graph=True)
    began = time.perf_counter()
    for _ in range(-(-rows // at_once)):
        torch.autograd.grad(out, embedded, vectors, retain_graph=True)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
