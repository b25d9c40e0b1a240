"""How near to the arithmetic the jobs come on a GPU: times in plain forwards, and in the floor that exactness requires.

    python benchmarks/gpu.py [--rounds 3] [--columns "GPT-2"] [--small]

Random weights at the shapes of GPT-2 small and Llama-3-8B. ``plain`` is the model's own forward of the same prompts,
``fb`` a forward and backward to the embeddings, ``floor`` a sweep's multiply-adds (``sweeps.py``) at the speed of a
4096^3 product in the model's own precision. Every job is called at another length of prompts, so that all that is set
up once has been, then once at its own (``first``: what a plan for new shapes costs is in it), then ``rounds`` times, of
which ``then`` is the median. A target stands beside what it is a target of. With ``--small`` the shapes are tiny and a
processor takes the GPU's place, so that this program can be tested: its numbers then mean nothing.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import torch
from sweeps import floor
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

import caseback as cb
from caseback.decode.dictionaries import Recipe, bags
from caseback.decode.dictionaries.sparse import pattern_of_rows, sparse_decode
from caseback.decode.dictionaries.training.trainer import Trainer
from caseback.localize.circuits import edge_attribution
from caseback.localize.components import attribution_patching
from caseback.localize.inputs.gradients.integrated_gradients import integrated_gradients


@dataclass(frozen=True)
class Column:
    """One model at one size of prompts."""

    name: str
    config: Any
    dtype: torch.dtype
    prompts: int
    tokens: int
    targets: dict[str, float]


LLAMA_8B = {
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
}
TINY = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
TARGETS = {
    "residual sweep": 1.5,
    "z sweep": 1.5,
    "EAP, all edges": 3.0,
    "EAP-IG, 5 steps": 8.0,
    "attribution patching, z and mlp_out": 3.5,
    "run, pattern and z": 1.3,
    "integrated gradients, 50 steps": 8.0,
}
"""At Llama-3-8B's shape, 1 x 128, each in its row's unit."""
GPT2_TARGETS = {"residual sweep": 4.0, "z sweep": 4.0}


def columns(small: bool) -> list[Column]:
    if small:
        gpt2 = GPT2Config(n_layer=2, n_embd=32, n_head=4, vocab_size=100, n_positions=64)
        llama = LlamaConfig(vocab_size=100, num_key_value_heads=2, **TINY)
        return [
            Column("GPT-2 shape, tiny, fp32", gpt2, torch.float32, 1, 6, {}),
            Column("Llama shape, tiny, bf16", llama, torch.bfloat16, 2, 8, TARGETS),
        ]
    gpt2, llama = GPT2Config(), LlamaConfig(**LLAMA_8B)
    return [
        Column("GPT-2 small, fp32", gpt2, torch.float32, 1, 32, {}),
        Column("GPT-2 small, fp32", gpt2, torch.float32, 1, 128, {}),
        Column("GPT-2 small, bf16", gpt2, torch.bfloat16, 8, 128, GPT2_TARGETS),
        Column("Llama-3-8B shape, bf16", llama, torch.bfloat16, 1, 32, {}),
        Column("Llama-3-8B shape, bf16", llama, torch.bfloat16, 1, 128, TARGETS),
    ]


def seconds(job: Callable[[], object], device: torch.device) -> float:
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    job()
    wait()
    return time.perf_counter() - start


def product_speed(device: torch.device, dtype: torch.dtype, side: int) -> float:
    """Multiply-adds a second of a square product."""
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    a @ b
    return side**3 / min(seconds(lambda: a @ b, device) for _ in range(5))


def peak_above(job: Callable[[], object], device: torch.device) -> float | None:
    """GiB that a job holds at most above what was held before it; None on a processor, which does not count."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    job()
    return (torch.cuda.max_memory_allocated() - before) / 2**30


class Bench:
    """The jobs of one column, for prompts of any length."""

    def __init__(self, column: Column, hf: Any, device: torch.device):
        self.column, self.device, self.hf, self.model = column, device, hf, cb.load(hf)
        self.metric = cb.logit_diff(11, 23)

    def jobs(self, tokens: int) -> dict[str, Callable[[], object]]:
        model, metric, b = self.model, self.metric, self.column.prompts
        L, H = model.n_layers, model.n_heads
        ids = torch.randint(3, model.d_vocab, (2 * b, tokens), generator=torch.Generator().manual_seed(tokens))
        clean, corrupt = model.tokens(ids[:b]), model.tokens(ids[b:])

        def plain() -> None:
            with torch.no_grad():
                self.hf(clean.ids, use_cache=False)

        def forward_and_backward() -> None:
            embedded = self.hf.get_input_embeddings()(clean.ids).detach().requires_grad_()
            logits = self.hf(inputs_embeds=embedded, use_cache=False).logits[:, -1]
            torch.autograd.grad((logits[:, 11] - logits[:, 23]).sum(), embedded)

        def residual() -> None:
            run = model.run(corrupt, read=["resid_pre"])
            model.sweep(
                clean, [cb.Resample("resid_pre", run, layer=i, pos=p) for i in range(L) for p in range(tokens)], metric
            )

        def heads() -> None:
            run = model.run(corrupt, read=["z"])
            model.sweep(clean, [cb.Resample("z", run, layer=i, head=h) for i in range(L) for h in range(H)], metric)

        return {
            "plain": plain,
            "fb": forward_and_backward,
            "residual sweep": residual,
            "z sweep": heads,
            "run, nothing read": lambda: model.run(clean),
            "run, pattern and z": lambda: model.run(clean, read=["pattern", "z"]),
            "attribution patching, z and mlp_out": lambda: attribution_patching(
                model, clean, corrupt, metric, sites=["z", "mlp_out"]
            ),
            "EAP, all edges": lambda: edge_attribution(model, clean, corrupt, metric),
            "EAP-IG, 5 steps": lambda: edge_attribution(model, clean, corrupt, metric, steps=5),
            "integrated gradients, 50 steps": lambda: integrated_gradients(model, clean, metric, steps=50),
        }

    def floors(self) -> dict[str, float]:
        """Multiply-adds of the sweeps."""
        model, n, b = self.model, self.column.tokens, self.column.prompts
        L, H = model.n_layers, model.n_heads
        return {
            "residual sweep": b * floor(model, [(i, p, 1) for i in range(L) for p in range(n)], n),
            "z sweep": b * floor(model, [(i, 0, 0) for i in range(L) for _ in range(H)], n),
        }


UNITS = {"EAP, all edges": "fb", "EAP-IG, 5 steps": "fb"}


def measure(column: Column, hf: Any, device: torch.device, rounds: int, side: int) -> None:
    bench = Bench(column, hf, device)
    speed, least = product_speed(device, column.dtype, side), bench.floors()
    jobs = bench.jobs(column.tokens)
    for job in bench.jobs(column.tokens - 2).values():
        job()
    first = {name: seconds(job, device) for name, job in jobs.items()}
    then = {name: statistics.median(seconds(job, device) for _ in range(rounds)) for name, job in jobs.items()}
    plain, fb = then["plain"], then["fb"]
    rate = f"product of {side}^3: {2 * speed / 1e12:.3g} TFLOP/s"
    print(
        f"\n{column.name}, {column.prompts} x {column.tokens}: plain {plain * 1e3:.1f} ms, fb {fb * 1e3:.1f} ms; {rate}"
    )
    print(f"{'job':38s} {'first':>9s} {'then':>9s} {'first/then':>10s} {'':>12s} {'x floor':>9s} {'target':>12s}")
    for name in list(jobs)[2:]:
        unit, base = ("fb", fb) if UNITS.get(name) == "fb" else ("fwd", plain)
        above = f"{then[name] * speed / least[name]:.2f}" if name in least else ""
        target = ""
        if name in column.targets and name != "integrated gradients, 50 steps":
            target = f"<= {column.targets[name]:g} {'floor' if name in least else unit}"
        times = f"{first[name] * 1e3:7.1f}ms {then[name] * 1e3:7.1f}ms {first[name] / then[name]:10.2f}"
        print(f"{name:38s} {times} {then[name] / base:8.2f} {unit:3s} {above:>9s} {target:>12s}")
    name = "integrated gradients, 50 steps"
    peak = peak_above(jobs[name], device)
    within = f", target <= {column.targets[name]:g} GiB" if name in column.targets else ""
    print(f"{name}: peak memory above the weights {'not measured' if peak is None else f'{peak:.1f} GiB'}{within}")


SPARSE = "sparse sums"
CALLS = 10
"""At once, of what takes a fraction of a millisecond."""


def sums_of_dictionaries(device: torch.device, tokens: int, d: int, features: int, k: int, rounds: int) -> None:
    """Decoding, with its gradients, and a whole step of TopK; also where one feature is active at every token."""
    rows = torch.randn(features, d, device=device, requires_grad=True)
    values = torch.randn(tokens * k, device=device, requires_grad=True)
    best = torch.rand(tokens, features, device=device).topk(k).indices
    everywhere = torch.cat([torch.zeros_like(best[:, :1]), best[:, 1:]], 1)
    to, x = (torch.randn(tokens, d, device=device) for _ in range(2))
    recipe = Recipe(site="resid_post.0", architecture="topk", options={"k": k}, width=features)
    trainer = Trainer(recipe, recipe.start(d, d).to(device), 10**9)
    trainer.begin(x, x)

    def decode() -> None:
        with torch.no_grad():
            sparse_decode(values, rows, pattern_of_rows(best, features))

    def gradients(of: torch.Tensor) -> None:
        written = sparse_decode(values, rows, pattern_of_rows(of, features))
        torch.autograd.grad(written, (values, rows), to)

    jobs: dict[str, Callable[[], object]] = {
        "decode": decode,
        "decode, and its gradients": lambda: gradients(best),
        "the same, one feature everywhere": lambda: gradients(everywhere),
        "a step of TopK": lambda: trainer.step(x),
    }
    print(f"\n{SPARSE}: {tokens} tokens, d {d}, {features} features, {k} active, fp32")
    print(f"{'job':38s} {'plain':>9s} {'Triton':>9s} {'plain/Triton':>12s}")
    by_kernels = bags.uses_triton(rows)
    for name, job in jobs.items():
        spent = {}
        for switch in ("0", "1") if by_kernels else ("0",):
            os.environ[bags.SWITCH] = switch
            job()
            many = [seconds(lambda job=job: [job() for _ in range(CALLS)], device) / CALLS for _ in range(rounds)]
            spent[switch] = statistics.median(many)
        other = f"{spent['1'] * 1e3:7.2f}ms {spent['0'] / spent['1']:12.2f}" if by_kernels else "not measured"
        print(f"{name:38s} {spent['0'] * 1e3:7.2f}ms {other}")
    os.environ.pop(bags.SWITCH, None)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--columns", default="", help="only columns whose name begins so")
    options.add_argument("--small", action="store_true", help="tiny shapes on the processor: a test of this program")
    chosen = options.parse_args()
    if not chosen.small and not torch.cuda.is_available():
        print("no GPU here: nothing was measured (--small tries the program on a processor)")
        sys.exit(0)
    device = torch.device("cpu" if chosen.small else "cuda")
    name = "a processor, tiny shapes: these numbers mean nothing" if chosen.small else torch.cuda.get_device_name()
    print(f"{name}; torch {torch.__version__}; a first call is at a length not seen before, target first/then <= 1.5")
    built: tuple[Any, torch.dtype, Any] | None = None
    for column in columns(chosen.small):
        if not column.name.startswith(chosen.columns):
            continue
        if built is None or built[:2] != (column.config, column.dtype):
            built = None  # the model before goes first: two of this size need not fit
            kind = GPT2LMHeadModel if isinstance(column.config, GPT2Config) else LlamaForCausalLM
            torch.manual_seed(0)
            torch.set_default_dtype(column.dtype)
            with device:
                hf = kind(column.config).eval()
            torch.set_default_dtype(torch.float32)
            built = column.config, column.dtype, hf
        measure(column, built[2], device, chosen.rounds, 256 if chosen.small else 4096)
    if SPARSE.startswith(chosen.columns):
        built = None
        for sizes in [(32, 16, 64, 4)] if chosen.small else [(4096, 768, 6144, 32), (4096, 4096, 32768, 64)]:
            sums_of_dictionaries(device, *sizes, chosen.rounds)


if __name__ == "__main__":
    main()
