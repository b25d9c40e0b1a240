"""What data attribution costs an example, against a plain forward and backward pass of the same batch.

    python benchmarks/training_data.py [--rounds 5]

GPT-2-small's width with few layers and a small vocabulary by default, so that the blocks and not the unembedding are
timed. Each job stands between two plain passes (weight gradients formed, as training does) and is divided by them;
medians over the rounds of processor time on one thread. The last line is the usual alternative, a backward pass a text.
"""

import argparse
import os
import statistics
import time

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
import torch
from transformers import GPT2Config, GPT2LMHeadModel

import caseback as cb
from caseback.localize.inputs.training import kronecker
from caseback.localize.inputs.training.examples import Example, batch_of
from caseback.localize.inputs.training.matrices import matrices_of
from caseback.localize.inputs.training.objectives import log_likelihood
from caseback.localize.inputs.training.per_example import factors
from caseback.localize.inputs.training.projection import Projection, TwoSided, projector_of


def clock(job) -> float:
    began = time.process_time()
    job()
    return time.process_time() - began


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--batch", type=int, default=8)
    options.add_argument("--tokens", type=int, default=64)
    options.add_argument("--layers", type=int, default=2)
    options.add_argument("--vocab", type=int, default=2000)
    chosen = options.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    hf = GPT2LMHeadModel(
        GPT2Config(n_layer=chosen.layers, vocab_size=chosen.vocab, bos_token_id=0, eos_token_id=0)
    ).eval()
    model = cb.load(hf)
    ids = torch.randint(0, chosen.vocab, (chosen.batch, chosen.tokens))
    examples = [Example(tuple(row), i) for i, row in enumerate(ids.tolist())]
    batch = batch_of(examples, range(chosen.batch), model.device)
    matrices, objective = matrices_of(model.anatomy), log_likelihood()

    def plain():
        hf(ids, labels=ids, use_cache=False).loss.backward()
        hf.zero_grad()

    def one_at_a_time():
        for row in ids:
            plain_of(row[None])

    def plain_of(row):
        hf(row, labels=row, use_cache=False).loss.backward()
        hf.zero_grad()

    def with_rows(projector):
        def job():
            found, _, _ = factors(model, batch, matrices, objective)
            # segment by segment, as scores are taken: whole gradients never stand side by side
            for _ in projector.pieces(found):
                pass

        return job

    # what is timed is the size of a basis, whatever its entries
    bases = [(torch.randn(m.d_in, m.d_in), torch.randn(m.d_out, m.d_out)) for m in matrices]
    jobs = {
        "both factors of every gradient": lambda: factors(model, batch, matrices, objective),
        "whole gradients": with_rows(projector_of(Projection("whole"), matrices)),
        "sparse projection to 4096": with_rows(projector_of(Projection("sparse", 4096), matrices)),
        "LoGra, 32 a side": with_rows(projector_of(Projection("logra", 32), matrices)),
        "EK-FAC's basis, 32 a side": with_rows(TwoSided([(a[:, -32:], s[:, -32:]) for a, s in bases])),
        "EK-FAC's basis, whole": with_rows(TwoSided(bases)),
        "EK-FAC: covariances": lambda: kronecker.covariances(
            model, examples, matrices, objective, token_budget=chosen.batch * chosen.tokens
        ),
        "plain passes, a text each": one_at_a_time,
    }
    plain()
    share = sum(m.size for m in matrices) / sum(p.numel() for p in hf.parameters())
    print(f"{chosen.batch} x {chosen.tokens} tokens, {chosen.layers} layers; {share:.0%} of the parameters")
    print("processor time over that of a plain forward + backward")
    for name, job in jobs.items():
        rounds = []
        for _ in range(chosen.rounds):
            before, took, after = clock(plain), clock(job), clock(plain)
            rounds.append(2 * took / (before + after))
        print(f"{name:32s} {statistics.median(rounds):5.2f}")


if __name__ == "__main__":
    main()
