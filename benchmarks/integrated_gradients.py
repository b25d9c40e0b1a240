"""What integrated gradients cost, at GPT-2-small shape with random weights, counted in plain forwards with backwards.

    python benchmarks/integrated_gradients.py [--tokens 32] [--rounds 3] [--steps 50] [--unbounded] [--relevance]

The plain one is Hugging Face's forward of the same prompt and a backward to its embeddings, parameters frozen. Each
contender is timed between two of it and divided by them; medians over the rounds, CPU and wall time. captum's
LayerIntegratedGradients (where captum is installed) takes the same rule, steps, baseline and batch.

The adaptive rule is asked for the completeness gap that equal steps leave, or, where that is rounding, for ten times
the rounding; how many points either takes is printed beside the time. ``--relevance`` times one pass of relevance
propagation and SmoothGrad's draws too.
"""

import argparse
import os
import resource
import statistics
import time
from importlib.util import find_spec

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
import torch
from transformers import GPT2Config, GPT2LMHeadModel

import caseback as cb
from caseback.localize.inputs import attn_lrp, integrated_gradients, sequential_integrated_gradients, smoothgrad

TARGET, FOIL, BASELINE = 11, 23, 50256


def clocks(job) -> tuple[float, float]:
    cpu, wall = time.process_time(), time.perf_counter()
    job()
    return time.process_time() - cpu, time.perf_counter() - wall


def captum(hf, ids, steps: int, batch: int | None):
    from captum.attr import LayerIntegratedGradients

    def difference(x):
        logits = hf(x, use_cache=False).logits[:, -1]
        return logits[:, TARGET] - logits[:, FOIL]

    layer = LayerIntegratedGradients(difference, hf.transformer.wte)
    base = torch.full_like(ids, BASELINE)
    return lambda: layer.attribute(
        ids, baselines=base, n_steps=steps, method="gausslegendre", internal_batch_size=batch
    )


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--tokens", type=int, default=32)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--steps", type=int, default=50)
    options.add_argument("--unbounded", action="store_true", help="captum's default too, all steps in one batch")
    options.add_argument("--relevance", action="store_true")
    chosen = options.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    torch.manual_seed(0)
    hf = GPT2LMHeadModel(GPT2Config()).eval()
    for parameter in hf.parameters():
        parameter.requires_grad_(False)
    model = cb.load(hf)
    ids = torch.randint(0, model.d_vocab, (1, chosen.tokens))
    tokens, metric = model.tokens(ids), cb.logit_diff(TARGET, FOIL)
    batch = max(1, 512 // chosen.tokens)

    def plain():
        x = hf.transformer.wte(ids).detach().requires_grad_()
        logits = hf(inputs_embeds=x, use_cache=False).logits[0, -1]
        torch.autograd.grad(logits[TARGET] - logits[FOIL], x)

    def fixed(**how):
        return lambda: integrated_gradients(model, tokens, metric, baseline=BASELINE, **how)

    def adaptive():
        return integrated_gradients(
            model, tokens, metric, baseline=BASELINE, rule="adaptive", tolerance=known["gap"], max_batch=batch
        )

    jobs = {
        f"caseback, {chosen.steps} steps, batch {batch}": fixed(steps=chosen.steps, max_batch=batch),
        "caseback, adaptive": adaptive,
    }
    if find_spec("captum"):
        batches = (batch, None) if chosen.unbounded else (batch,)
        jobs |= {f"captum, {chosen.steps} steps, batch {b}": captum(hf, ids, chosen.steps, b) for b in batches}
    if chosen.relevance:
        jobs |= {
            "AttnLRP": lambda: attn_lrp(model, tokens, metric),
            f"SmoothGrad, {chosen.steps} draws": lambda: smoothgrad(model, tokens, metric, draws=chosen.steps),
            "sequential, 5 steps a token": lambda: sequential_integrated_gradients(
                model, tokens, metric, baseline=BASELINE, steps=5
            ),
        }
    print(f"{chosen.tokens} tokens; ratios to a plain forward with backward, CPU (wall)")
    known: dict[str, float] = {}
    plain()
    for name, job in jobs.items():
        rounds, made = [], []
        for _ in range(chosen.rounds):
            before, took, after = clocks(plain), clocks(lambda job=job: made.append(job())), clocks(plain)  # noqa: B023
            rounds.append([2 * t / (b + a) for t, b, a in zip(took, before, after, strict=True)])
        cpu, wall = (statistics.median(r[i] for r in rounds) for i in (0, 1))
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        told = getattr(made[0], "attrs", {})
        said = ""
        if "completeness_gap" in told and "evaluations" in told:
            said = f"{told['evaluations'][0]} points, gap {abs(told['completeness_gap'][0]):.1e}"
            ends = max(abs(told["metric_value"][0]), abs(told["baseline_value"][0]))
            rounding = 10 * torch.finfo(torch.float32).eps * ends
            known.setdefault("gap", max(abs(told["completeness_gap"][0]), rounding))
        print(f"{name:36s} {cpu:6.1f} ({wall:.1f})  {most:.1f} GiB resident at most so far  {said}", flush=True)


if __name__ == "__main__":
    main()
