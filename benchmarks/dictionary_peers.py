"""One training step of a TopK dictionary here and in other libraries: the same loss, the same gradients, and the time.

    python benchmarks/dictionary_peers.py --python PEERS/bin/python [--expansions 8 16] [--rounds 5]

d = 768, 4,096 tokens, 32 active features, one thread. The other libraries live in an environment of their own, since
they need other versions than caseback does:

    python -m venv PEERS
    PEERS/bin/pip install torch==2.13.0 numpy
    PEERS/bin/pip install --no-deps sae-lens==6.54.12 dictionary-learning==0.1.0 eai-sparsify==1.3.3 \
        "transformer-lens<4" "nnsight>=0.3,<0.4"
    PEERS/bin/pip install transformers datasets einops natsort simple-parsing schedulefree accelerate fancy-einsum \
        jaxtyping beartype better-abc nltk "babe<0.0.8" wandb plotly plotly-express python-dotenv tenacity \
        transformers-stream-generator sentencepiece typeguard rich python-socketio msgspec toolz

Each library is a process that waits its turn: in every round each takes one whole step as its own trainer takes it
(its optimizer, clipping, unit rows, clock of dead features), so that a busy machine is busy for all of them. CPU
seconds, the median over rounds, and the median of the rounds' ratios. Before, all of them get the same weights and the
same batch in float64, and losses and gradients are compared, sums brought to the same unit.

This file runs in both environments: started with --serve it is one library, and imports nothing of caseback.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import io
import json
import os
import statistics
import subprocess
import sys
import time
from base64 import b64decode, b64encode
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

D, TOKENS, K = 768, 4096, 32
PEERS = {
    "sae-lens": "sae-lens",
    "sae-lens, sparse": "sae-lens",
    "dictionary-learning": "dictionary-learning",
    "sparsify": "eai-sparsify",
}
Arrays = dict[str, np.ndarray]


def small() -> Arrays:
    """Weights and a batch to compare on; every tenth feature counts as dead where there is an auxiliary loss."""
    draw = np.random.default_rng(0)
    d, features, tokens = 32, 128, 200
    rows = draw.normal(size=(features, d))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    reads = rows + 0.1 * draw.normal(size=rows.shape)
    reads[::10] *= 0.05  # never among the highest, and above 0 at half of the tokens
    b_enc, b_dec = 0.01 * draw.normal(size=features), 0.1 * draw.normal(size=d)
    x = draw.normal(size=(tokens, d))
    return {
        "W_enc": reads,
        "W_dec": rows,
        "b_enc": b_enc,
        "b_dec": b_dec,
        "x": x,
        "dead": np.arange(features) % 10 == 0,
    }


SMALL_K = 8


def gradients(total: torch.Tensor, named: dict[str, torch.Tensor], transposed: tuple[str, ...]) -> Arrays:
    """The loss and its gradients, rows by feature."""
    grads = torch.autograd.grad(total, list(named.values()))
    return {"loss": np.array(float(total.detach()))} | {
        name: (grad.T if name in transposed else grad).numpy() for name, grad in zip(named, grads, strict=True)
    }


# the other libraries, in their own environment ------------------------------------------------------------------------


def sae_lens(d: int, features: int, k: int, *, sparse: bool, dtype: str = "float32") -> Any:
    """SAELens' dictionary in training."""
    from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig  # pyright: ignore

    options = {"rescale_acts_by_decoder_norm": False} if dtype == "float64" else {}
    config = TopKTrainingSAEConfig(
        d_in=d, d_sae=features, k=k, apply_b_dec_to_input=True, use_sparse_activations=sparse, dtype=dtype, **options
    )
    return TopKTrainingSAE(config)


def sae_lens_step(features: int, x: torch.Tensor, *, sparse: bool) -> Callable[[], Any]:
    """A step of its trainer."""
    from sae_lens.config import SAETrainerConfig  # pyright: ignore
    from sae_lens.training.sae_trainer import SAETrainer  # pyright: ignore

    config = SAETrainerConfig(total_training_samples=10**9, train_batch_size_samples=TOKENS, lr_end=3e-5)
    own = sae_lens(D, features, K, sparse=sparse)
    trainer = SAETrainer(config, own, iter(()))  # pyright: ignore
    return lambda: trainer._train_step(own, x)


def sae_lens_gradients(given: Arrays, *, sparse: bool) -> Arrays:
    """Loss and gradients without an auxiliary loss, which is another one there."""
    from sae_lens.saes.sae import TrainStepInput  # pyright: ignore

    x = torch.from_numpy(given["x"])
    own = sae_lens(x.shape[1], len(given["W_enc"]), SMALL_K, sparse=sparse, dtype="float64")
    with torch.no_grad():
        own.W_enc.copy_(torch.from_numpy(given["W_enc"]).T)
        for name in ("W_dec", "b_enc", "b_dec"):
            getattr(own, name).copy_(torch.from_numpy(given[name]))
    step = TrainStepInput(sae_in=x, coefficients={}, dead_neuron_mask=None, n_training_steps=0, is_logging_step=False)
    total = own.training_forward_pass(step).loss
    return gradients(total, {name: getattr(own, name) for name in ("W_enc", "W_dec", "b_enc", "b_dec")}, ("W_enc",))


def dictionary_learning(d: int, features: int, k: int) -> Any:
    """dictionary_learning's trainer."""
    from dictionary_learning.trainers.top_k import TopKTrainer  # pyright: ignore

    return TopKTrainer(10**6, d, features, k, layer=0, lm_name="none", device="cpu", seed=0)


def dictionary_learning_step(features: int, x: torch.Tensor) -> Callable[[], Any]:
    """A step of its trainer; its first step, which finds a median, is left out."""
    trainer = dictionary_learning(D, features, K)
    return lambda: trainer.update(1, x)


def dictionary_learning_gradients(given: Arrays) -> Arrays:
    """Loss and gradients, the auxiliary loss of the dead features with it."""
    x = torch.from_numpy(given["x"])
    trainer = dictionary_learning(x.shape[1], len(given["W_enc"]), SMALL_K)
    trainer.ae.double()
    own = trainer.ae
    with torch.no_grad():
        own.encoder.weight.copy_(torch.from_numpy(given["W_enc"]))
        own.decoder.weight.copy_(torch.from_numpy(given["W_dec"]).T)
        own.encoder.bias.copy_(torch.from_numpy(given["b_enc"]))
        own.b_dec.copy_(torch.from_numpy(given["b_dec"]))
    trainer.num_tokens_since_fired[torch.from_numpy(given["dead"])] = 10**9
    named = {"W_enc": own.encoder.weight, "W_dec": own.decoder.weight, "b_enc": own.encoder.bias, "b_dec": own.b_dec}
    return gradients(trainer.loss(x, step=0), named, ("W_dec",))


def sparsify(d: int, features: int, k: int, dtype: torch.dtype = torch.float32) -> Any:
    """sparsify's dictionary."""
    from sparsify.config import SparseCoderConfig  # pyright: ignore
    from sparsify.sparse_coder import SparseCoder  # pyright: ignore

    return SparseCoder(d, SparseCoderConfig(num_latents=features, k=k), dtype=dtype)


def sparsify_step(features: int, x: torch.Tensor) -> Callable[[], Any]:
    """What its trainer does in a step, with its default optimizer; the trainer itself wants a model."""
    from schedulefree import ScheduleFreeWrapper  # pyright: ignore
    from sparsify.sign_sgd import SignSGD  # pyright: ignore

    own = sparsify(D, features, K)
    optimizer: Any = ScheduleFreeWrapper(SignSGD(own.parameters(), lr=5e-3 / (features / 2**14) ** 0.5), momentum=0.95)
    optimizer.train()
    since = torch.zeros(features, dtype=torch.int64)

    def step() -> None:
        own.set_decoder_norm_to_unit_norm()
        variance = (x - x.mean(0)).pow(2).sum()
        out = own(x=x, y=x, dead_mask=since > 10_000_000, total_variance=variance)
        fired = torch.zeros(features, dtype=torch.bool)
        fired[out.latent_indices.flatten()] = True
        (out.fvu + out.auxk_loss / 32).backward()
        own.remove_gradient_parallel_to_decoder_directions()
        optimizer.step()
        optimizer.zero_grad()
        since.add_(len(x))
        since[fired] = 0

    return step


def sparsify_gradients(given: Arrays) -> Arrays:
    """Loss and gradients without an auxiliary loss; its share of the variance as a sum of squares a token."""
    x = torch.from_numpy(given["x"])
    own = sparsify(x.shape[1], len(given["W_enc"]), SMALL_K, torch.float64)
    with torch.no_grad():
        own.encoder.weight.copy_(torch.from_numpy(given["W_enc"]))
        own.encoder.bias.copy_(torch.from_numpy(given["b_enc"]))
        for name in ("W_dec", "b_dec"):
            getattr(own, name).copy_(torch.from_numpy(given[name]))
    total = own(x).fvu * (x - x.mean(0)).pow(2).sum() / len(x)
    named = {"W_enc": own.encoder.weight, "W_dec": own.W_dec, "b_enc": own.encoder.bias, "b_dec": own.b_dec}
    return gradients(total, named, ())


def serve(peer: str) -> None:
    """Be one library: answer each line of the input with a line."""
    out, sys.stdout = sys.stdout, sys.stderr  # libraries print
    step: Callable[[], Any] | None = None
    for line in sys.stdin:
        asked = json.loads(line)
        answer: dict[str, Any] = {}
        try:
            if asked["do"] == "version":
                answer["is"] = f"{PEERS[peer]} {importlib.metadata.version(PEERS[peer])}, torch {torch.__version__}"
            elif asked["do"] == "gradients":
                answer["is"] = packed(GRADIENTS[peer](unpacked(asked["given"])))
            elif asked["do"] == "begin":
                torch.set_num_threads(asked["threads"])
                torch.manual_seed(0)
                step = STEPS[peer](asked["features"], torch.randn(TOKENS, D))
                step()  # the first one makes the optimizer's state
                answer["is"] = True
            else:
                assert step is not None
                answer["is"] = seconds(step)
        except Exception as error:  # whatever a library raises is its answer
            first = str(error).splitlines()[0] if str(error) else ""
            answer["error"] = f"{type(error).__name__}: {first:.160}"
        print(json.dumps(answer), file=out, flush=True)


STEPS: dict[str, Callable[[int, torch.Tensor], Callable[[], Any]]] = {
    "sae-lens": partial(sae_lens_step, sparse=False),
    "sae-lens, sparse": partial(sae_lens_step, sparse=True),
    "dictionary-learning": dictionary_learning_step,
    "sparsify": sparsify_step,
}
GRADIENTS: dict[str, Callable[[Arrays], Arrays]] = {
    "sae-lens": partial(sae_lens_gradients, sparse=False),
    "sae-lens, sparse": partial(sae_lens_gradients, sparse=True),
    "dictionary-learning": dictionary_learning_gradients,
    "sparsify": sparsify_gradients,
}


# both sides -----------------------------------------------------------------------------------------------------------


def seconds(step: Callable[[], Any]) -> float:
    """CPU seconds of one call."""
    start = time.process_time()
    step()
    return time.process_time() - start


def packed(arrays: Arrays) -> str:
    """Arrays as text."""
    file = io.BytesIO()
    np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]
    return b64encode(file.getvalue()).decode()


def unpacked(text: str) -> Arrays:
    """What ``packed`` gave."""
    return dict(np.load(io.BytesIO(b64decode(text))))


class Peer:
    """One library in a process of its own."""

    def __init__(self, python: str, name: str):
        command = [python, os.path.abspath(__file__), "--serve", name]
        environment = {**os.environ, "PYTHONPATH": "", "WANDB_MODE": "disabled"}
        pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout"), subprocess.PIPE) | {"stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(command, env=environment, text=True, **pipes)

    def ask(self, **what: Any) -> Any:
        """One question, one answer; ``RuntimeError`` with what the library raised."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline() or '{"error": "its process ended"}')
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["is"]

    def end(self) -> None:
        """Let the process end."""
        self.process.kill()
        self.process.communicate()


def own_gradients(given: Arrays, *, auxiliary: bool) -> Arrays:
    """Our loss and gradients, with the auxiliary loss of the dead features or without."""
    from caseback.decode.dictionaries import Facts, TopK

    x = torch.from_numpy(given["x"])
    own = TopK(x.shape[1], len(given["W_enc"]), k=SMALL_K, facts=Facts(centered=True), dtype=torch.float64)
    with torch.no_grad():
        for name in ("W_enc", "W_dec", "b_enc", "b_dec"):
            getattr(own, name).copy_(torch.from_numpy(given[name]))
    total = own.losses(x, dead=torch.from_numpy(given["dead"]) if auxiliary else None).total
    return gradients(total, {name: getattr(own, name) for name in ("W_enc", "W_dec", "b_enc", "b_dec")}, ())


def compare(name: str, peer: Peer, *, auxiliary: bool) -> None:
    """Print how far loss and gradients are from ours, as shares of the largest number of each."""
    given = small()
    theirs = unpacked(peer.ask(do="gradients", given=packed(given)))
    mine = own_gradients(given, auxiliary=auxiliary)
    apart = {key: float(np.abs(theirs[key] - mine[key]).max() / np.abs(mine[key]).max()) for key in mine}
    print(f"  {name:52} " + "  ".join(f"{key} {value:.1e}" for key, value in apart.items()))


def main() -> None:
    """Compare, and print times and ratios."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--python", help="the other libraries' Python")
    parser.add_argument("--expansions", type=int, nargs="+", default=[8, 16])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--serve", choices=list(PEERS), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.serve:
        serve(asked.serve)
        return
    if not asked.python:
        parser.error("--python is needed: the Python of an environment with the other libraries")
    from dictionaries import trained

    torch.set_num_threads(asked.threads)
    peers: dict[str, Peer] = {}
    print("loss and gradients, the largest difference over the largest number:")
    for name in PEERS:
        peers[name] = Peer(asked.python, name)
        try:
            version = peers[name].ask(do="version")
            compare(f"{name} ({version})", peers[name], auxiliary=name == "dictionary-learning")
        except (RuntimeError, OSError) as error:
            print(f"  {name}: {error}")
    for expansion in asked.expansions:
        features = expansion * D
        torch.manual_seed(0)
        x = torch.randn(TOKENS, D)
        trainer = trained("topk", features, 0.0, x)
        trainer.step(x)
        steps: dict[str, Callable[[], float]] = {"caseback": lambda own=trainer, x=x: seconds(lambda: own.step(x))}
        print(f"F = {expansion} d, {asked.rounds} rounds, load {os.getloadavg()[0]:.1f}", flush=True)
        for name, peer in peers.items():
            try:
                peer.ask(do="begin", features=features, threads=asked.threads)
                steps[name] = lambda peer=peer: peer.ask(do="step")
            except (RuntimeError, OSError) as error:
                print(f"  {name}: {error}")
        rounds = [{name: step() for name, step in steps.items()} for _ in range(asked.rounds)]
        print(f"  {'caseback':52} {statistics.median(one['caseback'] for one in rounds):6.2f} CPU-s")
        for name in list(steps)[1:]:
            own = statistics.median(one[name] for one in rounds)
            ratios = [one["caseback"] / one[name] for one in rounds]
            print(
                f"  {name:52} {own:6.2f} CPU-s   caseback is {statistics.median(ratios):.2f} of it "
                f"({min(ratios):.2f} to {max(ratios):.2f})",
                flush=True,
            )
    for peer in peers.values():
        peer.end()


if __name__ == "__main__":
    main()
