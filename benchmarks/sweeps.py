"""Sweeps against one full pass an edit, at GPT-2-small shape with random weights, counted in plain forwards.

    python benchmarks/sweeps.py [--tokens 32] [--prompts 1] [--rounds 3]

One full pass an edit would be as many forwards as there are variants: 384 and 144. TransformerLens's patching helpers
are timed beside ours where it is installed (`make bench` does), on an even sample of at most 48 of their patches, each
of which is one pass, and scaled up. Every sweep is timed between two plain Hugging Face forwards of the same prompts,
and divided by them; medians over the rounds are printed. The floor is the floating-point
work that exactness requires (each variant's suffix through the layers above its edit, less the projections of what
comes in unchanged, and in the last layer only what the metric reads) at the speed of a large matrix product.
"""

import argparse
import copy
import itertools
import os
import statistics
import tempfile
import time
from importlib.util import find_spec

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
import torch
from transformers import GPT2Config, GPT2LMHeadModel

import caseback as cb


def seconds(job, *args):
    start = time.perf_counter()
    job(*args)
    return time.perf_counter() - start


def matmul_speed() -> float:
    """Multiply-adds a second of the widest product of the model, (512, 768) x (768, 3072)."""
    a, b = torch.randn(512, 768), torch.randn(768, 3072)
    a @ b
    return 512 * 768 * 3072 / min(seconds(torch.mm, a, b) for _ in range(20))


def floor(model, starts, n: int) -> float:
    """Multiply-adds of the suffixes: (entry layer, first token, rows that differ there) of each variant."""
    d, L, inner = model.d_model, model.n_layers, model.n_heads * model.d_head
    keys = 2 * d * model.n_kv_heads * model.d_head
    gated = "mlp_gate" not in model.anatomy.lacks
    whole = 2 * d * inner + keys + (3 if gated else 2) * d * model.anatomy.d_mlp
    work = 0.0
    for layer, first, differ in starts:
        rows = n - first
        # all of a layer but the queries, keys and values of rows that come in as the clean run had them
        if layer < L - 1:
            work += (L - 1 - layer) * (whole + 2 * inner * n) * rows - (d * inner + keys) * (rows - differ)
        # keys and values, and the one row that the metric reads
        if layer < L:
            work += keys * (rows if layer < L - 1 else differ) + whole - keys + 2 * inner * n
    return work


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--tokens", type=int, default=32)
    options.add_argument("--prompts", type=int, default=1)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--budget", type=int, default=None)
    chosen = options.parse_args()
    torch.set_num_threads(2)
    torch.manual_seed(0)
    hf = GPT2LMHeadModel(GPT2Config()).eval()
    model = cb.load(hf)
    n, L, H, b = chosen.tokens, model.n_layers, model.n_heads, chosen.prompts
    ids = torch.randint(0, model.d_vocab, (2 * b, n))
    clean, corrupt = model.tokens(ids[:b]), model.tokens(ids[b:])
    shared = ids[:b].clone()
    shared[:, n // 2 :] = ids[b:, n // 2 :]
    metric = cb.logit_diff(11, 23)
    more = {} if chosen.budget is None else {"token_budget": chosen.budget}

    def plain():
        with torch.no_grad():
            hf(clean.ids, use_cache=False)

    def residual(source):
        run = model.run(source, read=["resid_pre"])
        variants = [cb.Resample("resid_pre", run, layer=i, pos=p) for i in range(L) for p in range(n)]
        return model.sweep(clean, variants, metric, **more)

    def heads(source):
        run = model.run(source, read=["z"])
        variants = [cb.Resample("z", run, layer=i, head=h) for i in range(L) for h in range(H)]
        return model.sweep(clean, variants, metric, **more)

    grid = [(i, p) for i in range(L) for p in range(n)]
    jobs = {
        f"residual sweep {L} x {n}": (residual, corrupt, floor(model, [(i, p, 1) for i, p in grid], n), 1),
        f"z sweep {L} x {H}, all positions": (
            heads,
            corrupt,
            floor(model, [(i, 0, 0) for i in range(L) for _ in range(H)], n),
            1,
        ),
        f"residual sweep {L} x {n}, half the prompt shared": (
            residual,
            model.tokens(shared),
            floor(model, [(i, p, 1) for i, p in grid if p >= n // 2], n),
            1,
        ),
    }
    if find_spec("transformer_lens"):
        jobs |= peers(hf, clean, corrupt)
    plain()
    speed = matmul_speed()
    forwards = {name: [] for name in jobs}
    base = []
    for _ in range(chosen.rounds):
        for name, (job, source, _, times) in jobs.items():
            before = min(seconds(plain) for _ in range(3))
            took = seconds(job, source)
            after = min(seconds(plain) for _ in range(3))
            base += [before, after]
            forwards[name].append(times * 2 * took / (before + after))
    one = statistics.median(base)
    rate = f"matmul {2 * speed / 1e9:.0f} GFLOP/s; torch {torch.__version__}"
    print(f"plain forward of {b} x {n}: {one * 1e3:.0f} ms; {rate}")
    for name, (_, _, work, _) in jobs.items():
        work = None if work is None else b * work
        median = statistics.median(forwards[name])
        least = (
            "" if work is None else f", floor {work / speed / one:6.1f}, ratio to it {median * one * speed / work:.2f}"
        )
        print(f"{name:52s} {median:7.1f} forwards ({min(forwards[name]):.1f} to {max(forwards[name]):.1f}){least}")


def peers(hf, clean, corrupt):
    """TransformerLens's own sweeps on a copy of the same model."""
    import pandas
    from transformer_lens import patching
    from transformer_lens.model_bridge import TransformerBridge

    with tempfile.TemporaryDirectory() as folder:
        hf.config.architectures = [type(hf).__name__]
        hf.config.save_pretrained(folder)
        bridge = TransformerBridge.boot_transformers(folder, hf_model=copy.deepcopy(hf))
    _, cache = bridge.run_with_cache(corrupt.ids)

    def read(logits):
        return (logits[:, -1, 11] - logits[:, -1, 23]).mean()

    def timed(helper, names, sizes):
        grid = list(itertools.product(*(range(size) for size in sizes)))
        some = pandas.DataFrame(grid[:: max(1, len(grid) // 48)], columns=list(names))

        def job(_):
            helper(bridge, clean.ids, cache, read, index_axis_names=None, index_df=some)

        return job, None, None, len(grid) / len(some)

    L, H, n = bridge.cfg.n_layers, bridge.cfg.n_heads, clean.ids.shape[1]
    return {
        "TransformerLens get_act_patch_resid_pre": timed(patching.get_act_patch_resid_pre, ("layer", "pos"), (L, n)),
        "TransformerLens get_act_patch_attn_head_out_all_pos": timed(
            patching.get_act_patch_attn_head_out_all_pos, ("layer", "head"), (L, H)
        ),
    }


if __name__ == "__main__":
    main()
