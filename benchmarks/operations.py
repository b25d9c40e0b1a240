"""Tensor operations and read-backs of each job, beside those of the model's own forward: exact on a busy machine.

    python benchmarks/operations.py [--layers 8] [--tokens 64] [--check]

A time on a CPU says little of a GPU, where starting an operation costs as much as a small matrix product, and reading
a number back waits for all that came before. Both are counted here at Llama's shape (grouped heads, a gated MLP) with
random weights: every operation that torch dispatches (views, index arithmetic and tensors of the host included), and
every call that reads a tensor's contents into Python (`item`, `tolist`, `nonzero`, a mask as an index, `cpu`, ...), on
whichever device the tensor is. With `--check` the program ends with status 1 where a count is above its bound.
"""

import argparse
import os
import sys
from collections import Counter
from collections.abc import Callable

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig, LlamaForCausalLM

import caseback as cb
from caseback.localize.circuits import edge_attribution
from caseback.localize.components import attribution_patching
from caseback.localize.inputs.gradients.integrated_gradients import integrated_gradients
from caseback.model.sweeping.packed import Packed

READING_OPERATIONS = ("_local_scalar_dense", "nonzero", "equal", "masked_select", "is_nonzero", "unique")
READING_CALLS = ("tolist", "cpu")


class Operations(TorchDispatchMode):
    """Counts what torch dispatches: ``total``, by name in ``names``, and the reading ones in ``read``."""

    def __init__(self):
        super().__init__()
        self.names: Counter[str] = Counter()
        self.read: Counter[str] = Counter()
        self.calls = _Calls(self.read)

    @property
    def total(self) -> int:
        return self.names.total()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.__name__.split(".")[0]
        self.names[name] += 1
        if name.startswith(READING_OPERATIONS):
            self.read[name] += 1
        if name in ("index", "index_put", "index_put_"):
            masks = [i for i in args[1] if isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8)]
            self.read[f"{name} by a mask"] += len(masks)
        return func(*args, **(kwargs or {}))

    def __enter__(self):
        self.calls.__enter__()
        return super().__enter__()

    def __exit__(self, *failure):
        super().__exit__(*failure)
        self.calls.__exit__(*failure)


class _Calls(TorchFunctionMode):
    """Notes the calls that read a tensor without an operation of their own."""

    def __init__(self, read: Counter[str]):
        super().__init__()
        self.read = read

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        if name in READING_CALLS:
            self.read[name] += 1
        return func(*args, **(kwargs or {}))


def counted(job: Callable[[], object]) -> tuple[Operations, int]:
    """What a job dispatches, and how many chunks of a sweep it ran, the unedited values aside."""
    chunks, run = [0], Packed.values

    def values(self):
        chunks[0] += bool(self.session.edits or self.door)
        return run(self)

    Packed.values = values
    try:
        with Operations() as operations:
            job()
    finally:
        Packed.values = run
    return operations, chunks[0]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--layers", type=int, default=8)
    options.add_argument("--tokens", type=int, default=64)
    options.add_argument("--check", action="store_true")
    options.add_argument("--names", type=int, default=0, help="operations of each job to list")
    options.add_argument("--only", default="", help="jobs whose name begins so")
    chosen = options.parse_args()
    torch.manual_seed(0)
    L, n, H = chosen.layers, chosen.tokens, 8
    shape = {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": H, "num_key_value_heads": 2}
    hf = LlamaForCausalLM(LlamaConfig(vocab_size=512, num_hidden_layers=L, **shape)).eval()
    model = cb.load(hf)
    ids = torch.randint(3, 512, (2, n))
    clean, corrupt = model.tokens(ids[:1]), model.tokens(ids[1:])
    metric = cb.logit_diff(11, 23)
    source = model.run(corrupt, read=["resid_pre", "z"])
    residual = [cb.Resample("resid_pre", source, layer=i, pos=p) for i in range(L) for p in range(n)]
    heads = [cb.Resample("z", source, layer=i, head=h) for i in range(L) for h in range(H)]

    def plain() -> None:
        with torch.no_grad():
            hf(clean.ids, use_cache=False)

    def forward_and_backward() -> None:
        embedded = hf.model.embed_tokens(clean.ids).detach().requires_grad_()
        logits = hf(inputs_embeds=embedded, use_cache=False).logits[0, -1]
        torch.autograd.grad(logits[11] - logits[23], embedded)

    one, both = counted(plain)[0].total, counted(forward_and_backward)[0].total
    print(f"Llama's shape, {L} layers, {n} tokens: a forward is {one} operations, forward and backward {both}\n")
    jobs = {
        f"residual sweep of {len(residual)}": lambda: model.sweep(clean, residual, metric),
        f"z sweep of {len(heads)}": lambda: model.sweep(clean, heads, metric),
        "run, nothing read": lambda: model.run(clean),
        "run, pattern and z read": lambda: model.run(clean, read=["pattern", "z"]),
        "attribution patching, z and mlp_out": lambda: attribution_patching(
            model, clean, corrupt, metric, sites=["z", "mlp_out"]
        ),
        "EAP, all edges": lambda: edge_attribution(model, clean, corrupt, metric),
        "EAP-IG, 5 steps": lambda: edge_attribution(model, clean, corrupt, metric, steps=5),
        "integrated gradients, 50 steps": lambda: integrated_gradients(model, clean, metric, steps=50),
    }
    # what a sweep reads back once, whatever it sweeps: of prompts, targets and results
    once = counted(lambda: model.sweep(clean, heads[:1], metric))[0].read.total()
    bounds = {
        f"residual sweep of {len(residual)}": lambda chunks: 2 * chunks * one + 3 * len(residual),
        f"z sweep of {len(heads)}": lambda chunks: 2 * chunks * one + 3 * len(heads),
        "run, pattern and z read": lambda _: 1.5 * one,
        "attribution patching, z and mlp_out": lambda _: 3 * both,
        "EAP, all edges": lambda _: one + both + 120 * L,  # the two passes, and 120 a layer for all edges
        "EAP-IG, 5 steps": lambda _: 5 * both + 120 * L,
    }
    missed = []
    print(f"{'job':38s} {'operations':>10s} {'bound':>8s} {'forwards':>9s} {'chunks':>7s} {'read-backs':>11s}")
    for name, job in jobs.items():
        if not name.startswith(chosen.only):
            continue
        operations, chunks = counted(job)
        bound = bounds[name](chunks) if name in bounds else None
        printed = "" if bound is None else f"{bound:.0f}"
        print(
            f"{name:38s} {operations.total:10d} {printed:>8s} {operations.total / one:9.1f} {chunks or '':>7} "
            f"{operations.read.total():11d}"
        )
        if chosen.names:
            print("    ", operations.names.most_common(chosen.names))
            print("     read:", dict(operations.read))
        if bound is not None and operations.total > bound:
            missed.append(f"{name}: {operations.total} operations, bound {bound:.0f}")
        if chunks and operations.read.total() > once + 2 * (chunks - 1):
            most = once + 2 * (chunks - 1)
            missed.append(f"{name}: {operations.read.total()} read-backs in {chunks} chunks, bound {most}")
    print(*(["", *missed] if missed else []), sep="\n")
    if chosen.check and missed:
        sys.exit(1)


if __name__ == "__main__":
    main()
