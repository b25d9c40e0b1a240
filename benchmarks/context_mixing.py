"""What context mixing costs, at GPT-2-small shape with random weights, counted in plain passes.

    python benchmarks/context_mixing.py [--rounds 3] [--tokens 32 128] [--only NAME] [--memory]

Each technique scores one prompt's tokens for a logit difference. It is timed between two plain Hugging Face passes of
the same prompt and divided by them: CPU time, medians over the rounds, as so many forwards and as so many forwards with
a backward to the embeddings. A plain forward unembeds every position, a technique that knows no target none.
``--memory`` prints instead how many bytes of tensors are alive at most, the run that a technique reads included.
"""

import argparse
import os
import statistics
import time
import weakref
from collections import Counter

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import GPT2Config, GPT2LMHeadModel

import caseback as cb
from caseback.localize import inputs

METRIC = cb.logit_diff(11, 23)
JOBS = {
    "raw_attention": lambda m, t: inputs.raw_attention(m, t, METRIC),
    "attention_norms": lambda m, t: inputs.attention_norms(m, t, METRIC),
    "attention_rollout": lambda m, t: inputs.attention_rollout(m, t, METRIC),
    "attention_flow": lambda m, t: inputs.attention_flow(m, t, METRIC),
    "gradient_rollout": lambda m, t: inputs.gradient_rollout(m, t, METRIC),
    "globenc": lambda m, t: inputs.globenc(m, t, METRIC),
    "alti": lambda m, t: inputs.alti(m, t, METRIC),
    "value_zeroing": lambda m, t: inputs.value_zeroing(m, t, METRIC),
    "decompx": lambda m, t: inputs.decompx(m, t, METRIC),
    "decompx_maps": lambda m, t: inputs.decompx_maps(m, t),
    "alti_logit": lambda m, t: inputs.alti_logit(m, t, METRIC),
    "mlp_mixing": lambda m, t: inputs.mlp_mixing(m, t, METRIC),
}


def cpu_time(job) -> float:
    start = time.process_time()
    job()
    return time.process_time() - start


class Live(TorchDispatchMode):
    """While active, counts the storages that operations make until the last tensor on each is gone."""

    def __init__(self):
        super().__init__()
        self.users, self.now, self.peak = Counter(), 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        given = {x.untyped_storage().data_ptr() for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)}
        for x in tree_leaves(made):
            if isinstance(x, torch.Tensor):
                self._count(x, given)
        return made

    def _count(self, x, given):
        place, size = x.untyped_storage().data_ptr(), x.untyped_storage().nbytes()
        if place in given and not self.users[place]:
            return  # a view of something older than the count
        if not self.users[place]:
            self.now += size
            self.peak = max(self.peak, self.now)
        self.users[place] += 1
        weakref.finalize(x, self._gone, place, size)

    def _gone(self, place, size):
        self.users[place] -= 1
        if not self.users[place]:
            self.now -= size


def memory(name: str, n_tokens: int) -> None:
    """The most bytes of tensors alive at once, beside what one layer's block is."""
    model, tokens = made(n_tokens)
    with Live() as live:
        JOBS[name](model, tokens)
    block = n_tokens * (n_tokens + 1) * model.d_model * 4 / 2**20
    print(
        f"  {name:20s} {live.peak / 2**20:7.1f} MB, one layer's (source, position, d_model) {block:.1f} MB", flush=True
    )


def made(n_tokens: int):
    torch.manual_seed(0)
    model = cb.load(GPT2LMHeadModel(GPT2Config()).eval())
    return model, model.tokens(torch.randint(0, model.d_vocab, (1, n_tokens)))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--tokens", type=int, nargs="+", default=[32, 128])
    options.add_argument("--only", choices=JOBS)
    options.add_argument("--memory", action="store_true")
    chosen = options.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    names = [chosen.only] if chosen.only else list(JOBS)
    if chosen.memory:
        for n_tokens in chosen.tokens:
            print(f"{n_tokens} tokens")
            for name in names:
                memory(name, n_tokens)
        return
    for n_tokens in chosen.tokens:
        model, tokens = made(n_tokens)
        embedding = model.hf.get_input_embeddings()(tokens.ids).detach()
        model.hf.requires_grad_(False)

        def forward(hf=model.hf, ids=tokens.ids):
            with torch.no_grad():
                hf(ids, use_cache=False)

        def both(hf=model.hf, start=embedding):
            x = start.clone().requires_grad_()
            logits = hf(inputs_embeds=x, use_cache=False).logits[0, -1]
            torch.autograd.grad(logits[11] - logits[23], x)

        print(f"{n_tokens} tokens; plain forwards, and forwards with backward")
        forward(), both()
        for name in names:
            JOBS[name](model, tokens)
            rounds = []
            for _ in range(chosen.rounds):
                before = cpu_time(forward), cpu_time(both)
                took = cpu_time(lambda: JOBS[name](model, tokens))  # noqa: B023
                after = cpu_time(forward), cpu_time(both)
                rounds.append([2 * took / (b + a) for b, a in zip(before, after, strict=True)])
            each = [statistics.median(r[i] for r in rounds) for i in (0, 1)]
            print(f"  {name:20s} {each[0]:7.2f} {each[1]:7.2f}", flush=True)


if __name__ == "__main__":
    main()
