"""Perturbation at GPT-2-small shape with random weights, against captum and a hand-batched loop.

    python benchmarks/occlusion.py [--tokens 32 128] [--rounds 3] [--samples 64] [--permutations 2]

The unit is one plain forward and backward of the prompt: Hugging Face's forward and the gradient of a logit difference
at the input embeddings, parameters frozen; one with the parameters' gradients too is printed in that unit. Every
job is timed between two of them, in processor time (the machine may be busy), and divided by them; the median of the
rounds is printed, with the least and the most behind it. LIME and Kernel SHAP get the same number of samples,
Shapley sampling the same number of permutations; captum's run is one forward a sample, which is its default.
"""

import argparse
import os
import statistics
import time
from importlib.util import find_spec

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
import torch
from transformers import GPT2Config, GPT2LMHeadModel

import caseback as cb
from caseback.localize.inputs import atman, kernel_shap, lime, occlusion, shapley_sampling

TARGET, FOIL = 11, 23


def seconds(job) -> float:
    start = time.process_time()
    job()
    return time.process_time() - start


def difference(logits):
    return logits[:, -1, TARGET] - logits[:, -1, FOIL]


def peers(forward, embeds, zero, samples: int, permutations: int) -> dict:
    """Captum's methods, whose features are the tokens."""
    from captum import attr

    mask = torch.arange(embeds.shape[1])[None, :, None].expand_as(embeds).contiguous()
    where = {"baselines": zero, "feature_mask": mask}
    return {
        "captum FeatureAblation": lambda: attr.FeatureAblation(forward).attribute(embeds, **where),
        f"captum Lime, {samples}": lambda: attr.Lime(forward).attribute(embeds, n_samples=samples, **where),
        f"captum KernelShap, {samples}": lambda: attr.KernelShap(forward).attribute(embeds, n_samples=samples, **where),
        f"captum ShapleyValueSampling, {permutations}": lambda: attr.ShapleyValueSampling(forward).attribute(
            embeds, n_samples=permutations, **where
        ),
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--tokens", type=int, nargs="+", default=[32, 128])
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--samples", type=int, default=64)
    options.add_argument("--permutations", type=int, default=2)
    options.add_argument("--ours", action="store_true", help="leave captum out")
    chosen = options.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    torch.manual_seed(0)
    hf = GPT2LMHeadModel(GPT2Config()).eval()
    model, metric = cb.load(hf), cb.logit_diff(TARGET, FOIL)
    for n in chosen.tokens:
        ids = torch.randint(0, model.d_vocab, (1, n))
        embeds = hf.get_input_embeddings()(ids).detach()
        zero = torch.zeros_like(embeds)
        # as many as determine all coefficients
        samples = max(chosen.samples, 2 * n)

        def forward(x):
            with torch.no_grad():
                return difference(hf(inputs_embeds=x, use_cache=False).logits)

        def plain(parameters=False, embeds=embeds):
            hf.requires_grad_(parameters)
            x = embeds.clone().requires_grad_()
            difference(hf(inputs_embeds=x, use_cache=False).logits).sum().backward()
            hf.zero_grad()
            hf.requires_grad_(True)

        def batched(embeds=embeds, n=n, at_once=32):
            keep = 1 - torch.eye(n)[:, :, None]
            return torch.cat([forward(embeds * part) for part in keep.split(at_once)])

        def ours(technique, ids=ids, **how):
            return lambda: technique(model, ids, metric, **how)

        jobs = {
            "the same with the parameters' gradients": lambda: plain(True),
            "occlusion": ours(occlusion, baseline="zero"),
            "a hand-batched loop of the same": batched,
            f"lime, {samples} samples": ours(lime, samples=samples, baseline="zero", masked=0.5),
            f"kernel_shap, {samples} samples": ours(kernel_shap, samples=samples, baseline="zero"),
            f"shapley_sampling, {chosen.permutations} permutations": ours(
                shapley_sampling, permutations=chosen.permutations, baseline="zero"
            ),
            "atman": ours(atman),
        }
        if find_spec("captum") and not chosen.ours:
            jobs |= peers(forward, embeds, zero, samples, chosen.permutations)
        plain()
        one = statistics.median(seconds(plain) for _ in range(3))
        print(f"{n} tokens, plain forward and backward {one * 1e3:.0f} ms of processor time", flush=True)
        for name, job in jobs.items():
            taken = []
            for _ in range(chosen.rounds):
                before, took, after = seconds(plain), seconds(job), seconds(plain)
                taken.append(2 * took / (before + after))
            print(f"  {name:42s} {statistics.median(taken):7.2f} ({min(taken):.2f} to {max(taken):.2f})", flush=True)


if __name__ == "__main__":
    main()
