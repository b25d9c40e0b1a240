"""What logit attribution costs, at GPT-2-small shape with random weights, counted in plain forwards.

    python benchmarks/logit_attribution.py [--rounds 5] [--batch 8] [--tokens 64] [--peers]

Each is timed between two plain Hugging Face forwards of the same prompts and divided by them; medians over the rounds,
wall and CPU time. A plain forward unembeds every position, attribution only one: it may cost less. With ``--peers``
TransformerLens is timed beside ours where it is installed: its forward with every activation kept, then its stacks.
"""

import argparse
import copy
import os
import tempfile
import time
from importlib.util import find_spec

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
import torch
from transformers import GPT2Config, GPT2LMHeadModel

import caseback as cb
from caseback.localize.components.cumulative_attribution import cumulative_attribution
from caseback.localize.components.erasure import erased_writes
from caseback.localize.components.logit_attribution import logit_attribution
from caseback.localize.components.neuron_attribution import neuron_attribution
from caseback.localize.components.self_repair import self_repair
from caseback.localize.components.source_attribution import source_attribution

TARGET, FOIL = 11, 23


def clocks(job) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    job()
    return time.perf_counter() - wall, time.process_time() - cpu


def theirs(hf, ids) -> dict:
    """TransformerLens's recipe: run with a cache, stack, project."""
    if not find_spec("transformer_lens"):
        return {}
    from transformer_lens.model_bridge import TransformerBridge

    with tempfile.TemporaryDirectory() as folder:
        from tokenizers import Tokenizer, models
        from transformers import PreTrainedTokenizerFast

        words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(hf.config.vocab_size)}, unk_token="w0"))
        made = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="w0", eos_token="w0")
        made.save_pretrained(folder)
        hf.config.architectures = [type(hf).__name__]
        hf.config.save_pretrained(folder)
        bridge = TransformerBridge.boot_transformers(folder, hf_model=copy.deepcopy(hf))
    bridge.eval()
    pair = [torch.full((len(ids),), t) for t in (TARGET, FOIL)]

    def shares(stack):
        with torch.no_grad():
            _, cache = bridge.run_with_cache(ids)
            return cache.logit_attrs(stack(cache), *pair, pos_slice=-1)

    direction = (bridge.W_U[:, TARGET] - bridge.W_U[:, FOIL]).detach()

    def neurons():
        with torch.no_grad():
            _, cache = bridge.run_with_cache(ids)
            stack = cache.stack_neuron_results(-1, pos_slice=-1, apply_ln=True, project_output_onto=direction)
            return stack.abs().mean(-1).topk(20)

    return {
        "TransformerLens, heads": lambda: shares(lambda c: c.stack_head_results(pos_slice=-1)),
        "TransformerLens, attention and MLPs": lambda: shares(lambda c: c.decompose_resid(pos_slice=-1)),
        "TransformerLens, the 20 best neurons": neurons,
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--batch", type=int, default=8)
    options.add_argument("--tokens", type=int, default=64)
    options.add_argument("--peers", action="store_true")
    chosen = options.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    torch.manual_seed(0)
    hf = GPT2LMHeadModel(GPT2Config()).eval()
    model = cb.load(hf)
    ids = torch.randint(0, model.d_vocab, (chosen.batch, chosen.tokens))
    tokens, metric = model.tokens(ids), cb.logit_diff(TARGET, FOIL)

    def plain():
        with torch.no_grad():
            hf(ids, use_cache=False)

    jobs = {
        "heads, MLPs, embeddings, biases": lambda: logit_attribution(model, tokens, metric),
        "after each layer": lambda: cumulative_attribution(model, tokens, metric),
        f"the 20 best of {model.n_layers * 3072} neurons": lambda: neuron_attribution(model, tokens, metric),
        "positions through every head": lambda: source_attribution(model, tokens, metric),
        "self-repair of one layer's heads": lambda: self_repair(
            model, tokens, metric, components="heads", layers=[6], kind="zero"
        ),
        "erasure of 10 components": lambda: erased_writes(model, tokens, metric),
    }
    if chosen.peers:
        jobs |= theirs(hf, ids)
    plain()
    print(f"{chosen.batch} x {chosen.tokens} tokens; ratios to the plain forward, wall (CPU)")
    for name, job in jobs.items():
        job()
        wall, cpu = ratios(job, plain, chosen.rounds)
        print(f"{name:40s} {wall:6.2f} ({cpu:.2f})", flush=True)


if __name__ == "__main__":
    main()
