"""One training step of a TopK dictionary here and in other libraries: the same loss, the same gradients, and the time.

    python benchmarks/dictionary_peers.py --python PEERS/bin/python [--expansions 8 16] [--rounds 5] [--kinds ...]

d = 768, 4,096 tokens, 32 active features, one thread; and of a cross-layer transcoder with TopK: 6 layers of d = 256,
8 d features each, 2,048 tokens, 96 active features a token, all layers together. The other libraries live in an
environment of their own, since they need other versions than caseback does:

    python -m venv PEERS
    PEERS/bin/pip install torch==2.13.0 numpy
    PEERS/bin/pip install --no-deps sae-lens==6.54.12 dictionary-learning==0.1.0 eai-sparsify==1.3.3 \
        decode-clt==0.0.1 "transformer-lens<4" "nnsight>=0.3,<0.4"
    PEERS/bin/pip install transformers datasets einops natsort simple-parsing schedulefree accelerate fancy-einsum \
        jaxtyping beartype better-abc nltk "babe<0.0.8" wandb plotly plotly-express python-dotenv tenacity \
        transformers-stream-generator sentencepiece typeguard rich python-socketio msgspec toolz

Each library is a process that waits its turn: in every round each takes one whole step as its own trainer takes it
(its optimizer, clipping, unit rows, clock of dead features), so that a busy machine is busy for all of them. CPU
seconds, the median over rounds, and the median of the rounds' ratios. Before, all of them get the same weights and the
same batch in float64, and losses and gradients are compared, sums brought to the same unit. (decode-clt ranks scores by
their layer's spread, so it is compared with rectified scores, all of which are active. EleutherAI's clt-training and
circuit-tracer's trainers are not on PyPI; "plain torch" is the published step without any library: dense products.)

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
LAYERS, D_ACROSS, TOKENS_ACROSS, K_ACROSS = 6, 256, 2048, 96
PEERS = {
    "sae-lens": "sae-lens",
    "sae-lens, sparse": "sae-lens",
    "dictionary-learning": "dictionary-learning",
    "sparsify": "eai-sparsify",
}
ACROSS = {"decode-clt": "decode-clt", "plain torch": "torch"}
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


def small_across() -> Arrays:
    """Weights and states of a small cross-layer transcoder; a decoder for each pair of layers."""
    draw = np.random.default_rng(0)
    n, d, features, tokens = 3, 16, 48, 100
    pairs = {f"{s}->{t}": 0.2 * draw.normal(size=(features, d)) for s in range(n) for t in range(s, n)}
    given = {"W_enc": 0.3 * draw.normal(size=(n, features, d)), "b_enc": 0.1 * draw.normal(size=(n, features))}
    return given | pairs | {"b_dec": 0.1 * draw.normal(size=(n, d)), "x": draw.normal(size=(2, tokens, n, d))}


def decode_clt(n: int, d: int, features: int, **options: Any) -> tuple[Any, Any]:
    """decode-clt's model, and what makes its loss: of reconstruction alone."""
    from clt.config import CLTConfig, TrainingConfig  # pyright: ignore
    from clt.models.clt import CrossLayerTranscoder  # pyright: ignore
    from clt.training.losses import LossManager  # pyright: ignore

    config = CLTConfig(num_features=features, num_layers=n, d_model=d, **options)
    rest: dict[str, Any] = {"sparsity_lambda": 0.0, "preactivation_coef": 0.0, "activation_path": "none"}
    training = TrainingConfig(learning_rate=1e-4, training_steps=10**6, **rest)
    return CrossLayerTranscoder(config, None, device=torch.device("cpu")), LossManager(training, clt_config=config)


def decode_clt_step(features: int, x: torch.Tensor) -> Callable[[], Any]:
    """What its trainer does in a step, which itself wants a store of activations: loss, clock, AdamW."""
    own, losses = decode_clt(x.shape[2], x.shape[3], features, activation_fn="topk", topk_k=K_ACROSS)
    optimizer = torch.optim.AdamW(own.parameters(), lr=1e-4)
    since = torch.zeros(x.shape[2], features, dtype=torch.int64)
    reads, wanted = (dict(enumerate(side.unbind(1))) for side in x)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        codes = own.get_feature_activations(reads)
        more = {"precomputed_activations": codes, "dead_neuron_mask": since > 10**6}
        total, _ = losses.compute_total_loss(own, reads, wanted, 1, 10**6, **more)
        with torch.no_grad():
            for layer, own_codes in codes.items():
                since[layer] += 1
                since[layer][(own_codes > 1e-6).any(0)] = 0
        total.backward()
        optimizer.step()
        own.decoder_module._cached_decoder_norms = None

    return step


def decode_clt_gradients(given: Arrays) -> Arrays:
    """Loss and gradients of rectified scores; means over numbers as sums a token."""
    n, features, d = given["W_enc"].shape
    own, losses = decode_clt(n, d, features, activation_fn="relu", clt_dtype="float64")
    encoders, decoders = own.encoder_module.encoders, own.decoder_module.decoders
    with torch.no_grad():
        for layer, one in enumerate(encoders):
            one.weight.copy_(torch.from_numpy(given["W_enc"][layer]))
            one.bias_param.copy_(torch.from_numpy(given["b_enc"][layer]))
        for name, one in decoders.items():
            one.weight.copy_(torch.from_numpy(given[name]).T)
            source, target = name.split("->")
            one.bias_param.copy_(torch.from_numpy(given["b_dec"][int(target)]) * (source == "0"))
    reads, wanted = (dict(enumerate(side.unbind(1))) for side in torch.from_numpy(given["x"]))
    total = losses.compute_reconstruction_loss(own(reads), wanted) * d
    named = {f"W_enc {i}": one.weight for i, one in enumerate(encoders)}
    named |= {f"b_enc {i}": one.bias_param for i, one in enumerate(encoders)}
    named |= {f"W_dec {name}": one.weight for name, one in decoders.items()}
    named |= {f"b_dec {i}": decoders[f"0->{i}"].bias_param for i in range(n)}
    return gradients(total, named, tuple(f"W_dec {name}" for name in decoders))


def plain_written(given: dict[str, torch.Tensor], codes: torch.Tensor, n: int) -> torch.Tensor:
    """What dense products write to each layer."""
    layers = [sum(codes[:, s] @ given[f"{s}->{t}"] for s in range(t + 1)) for t in range(n)]
    return torch.stack(layers, 1) + given["b_dec"]  # pyright: ignore[reportCallIssue, reportArgumentType]


def plain_step(features: int, x: torch.Tensor) -> Callable[[], Any]:
    """The published step in dense products: TopK over all layers, Adam, clipping."""
    n, d = x.shape[2:]
    pairs = {f"{s}->{t}": torch.randn(features, d) / d**0.5 for s in range(n) for t in range(s, n)}
    own = {"W_enc": torch.randn(n, features, d) / d**0.5, "b_enc": torch.zeros(n, features)}
    own |= pairs | {"b_dec": torch.zeros(n, d)}
    parameters = [value.requires_grad_() for value in own.values()]
    optimizer = torch.optim.Adam(parameters, lr=1e-4, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        scores = torch.einsum("tld,lfd->tlf", x[0], own["W_enc"]) + own["b_enc"]
        flat = scores.flatten(1).relu()
        best = flat.topk(K_ACROSS, dim=1)
        codes = torch.zeros_like(flat).scatter(1, best.indices, best.values).view_as(scores)
        (plain_written(own, codes, n) - x[1]).square().sum((1, 2)).mean().backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()

    return step


def plain_gradients(given: Arrays) -> Arrays:
    """Loss and gradients of rectified scores."""
    own = {name: torch.from_numpy(value).requires_grad_() for name, value in given.items() if name != "x"}
    x, y = torch.from_numpy(given["x"])
    codes = (torch.einsum("tld,lfd->tlf", x, own["W_enc"]) + own["b_enc"]).relu()
    total = (plain_written(own, codes, x.shape[1]) - y).square().sum((1, 2)).mean()
    grads = gradients(total, own, ())
    parts = {name: grads.pop(name) for name in ("W_enc", "b_enc", "b_dec")}
    apart = {f"{name} {i}": rows for name, part in parts.items() for i, rows in enumerate(part)}
    return {name if name == "loss" else f"W_dec {name}": grad for name, grad in grads.items()} | apart


def serve(peer: str) -> None:
    """Be one library: answer each line of the input with a line."""
    out, sys.stdout = sys.stdout, sys.stderr  # libraries print
    package = (PEERS | ACROSS)[peer]
    step: Callable[[], Any] | None = None
    for line in sys.stdin:
        asked = json.loads(line)
        answer: dict[str, Any] = {}
        try:
            if asked["do"] == "version":
                answer["is"] = f"{package} {importlib.metadata.version(package)}, torch {torch.__version__}"
            elif asked["do"] == "gradients":
                answer["is"] = packed(GRADIENTS[peer](unpacked(asked["given"])))
            elif asked["do"] == "begin":
                torch.set_num_threads(asked["threads"])
                torch.manual_seed(0)
                step = STEPS[peer](asked["features"], states(peer in ACROSS))
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
    "decode-clt": decode_clt_step,
    "plain torch": plain_step,
}
GRADIENTS: dict[str, Callable[[Arrays], Arrays]] = {
    "sae-lens": partial(sae_lens_gradients, sparse=False),
    "sae-lens, sparse": partial(sae_lens_gradients, sparse=True),
    "dictionary-learning": dictionary_learning_gradients,
    "sparsify": sparsify_gradients,
    "decode-clt": decode_clt_gradients,
    "plain torch": plain_gradients,
}


# both sides -----------------------------------------------------------------------------------------------------------


def seconds(step: Callable[[], Any]) -> float:
    """CPU seconds of one call."""
    start = time.process_time()
    step()
    return time.process_time() - start


def states(across: bool) -> torch.Tensor:
    """A batch: of one site, or what all layers' MLPs read and write."""
    return torch.randn(2, TOKENS_ACROSS, LAYERS, D_ACROSS) if across else torch.randn(TOKENS, D)


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


def own_gradients_across(given: Arrays) -> Arrays:
    """Our loss and gradients of a cross-layer transcoder with rectified scores."""
    from caseback.decode.dictionaries import CrossLayerStandard

    n, features, d = given["W_enc"].shape
    own = CrossLayerStandard(d, n * features, n_layers=n, dtype=torch.float64)
    with torch.no_grad():
        own.W_enc.copy_(torch.from_numpy(given["W_enc"]).flatten(0, 1))
        own.b_enc.copy_(torch.from_numpy(given["b_enc"]).flatten())
        own.b_dec.copy_(torch.from_numpy(given["b_dec"]))
        for s in range(n):
            for t in range(s, n):
                own.decoder(s)[:, t - s].copy_(torch.from_numpy(given[f"{s}->{t}"]))
    x, y = torch.from_numpy(given["x"])
    total = own.losses(x, y, coefficient=torch.zeros(())).total
    grads = gradients(total, {name: getattr(own, name) for name in ("W_enc", "b_enc", "b_dec", "W_dec")}, ())
    own.W_dec.data.copy_(torch.from_numpy(grads.pop("W_dec")))  # so that its blocks are cut as weights are
    parts = {"W_enc": grads.pop("W_enc").reshape(n, features, d), "b_enc": grads.pop("b_enc").reshape(n, features)}
    parts["b_dec"] = grads.pop("b_dec")
    grads |= {f"{name} {i}": rows for name, part in parts.items() for i, rows in enumerate(part)}
    blocks = {f"W_dec {s}->{t}": own.decoder(s)[:, t - s].detach().numpy() for s in range(n) for t in range(s, n)}
    return grads | blocks


def compare(name: str, theirs: Arrays, mine: Arrays) -> None:
    """Print how far loss and gradients are from ours, as shares of the largest number of each."""
    apart: dict[str, float] = {}
    for key in mine:
        kind = key.partition(" ")[0]
        far = float(np.abs(theirs[key] - mine[key]).max() / np.abs(mine[key]).max())
        apart[kind] = max(far, apart.get(kind, 0.0))
    print(f"  {name:52} " + "  ".join(f"{key} {value:.1e}" for key, value in apart.items()))


def race(own: Callable[[], Any], peers: dict[str, Peer], features: int, rounds: int, threads: int) -> None:
    """Take steps in turn, and print the medians and the ratios of rounds."""
    own()
    steps: dict[str, Callable[[], float]] = {"caseback": lambda: seconds(own)}
    for name, peer in peers.items():
        try:
            peer.ask(do="begin", features=features, threads=threads)
            steps[name] = lambda peer=peer: peer.ask(do="step")
        except (RuntimeError, OSError) as error:
            print(f"  {name}: {error}")
    taken = [{name: step() for name, step in steps.items()} for _ in range(rounds)]
    print(f"  {'caseback':52} {statistics.median(one['caseback'] for one in taken):6.2f} CPU-s")
    for name in list(steps)[1:]:
        ratios = [one["caseback"] / one[name] for one in taken]
        print(
            f"  {name:52} {statistics.median(one[name] for one in taken):6.2f} CPU-s   caseback is "
            f"{statistics.median(ratios):.2f} of it ({min(ratios):.2f} to {max(ratios):.2f})",
            flush=True,
        )


def main() -> None:
    """Compare, and print times and ratios."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--python", help="the other libraries' Python")
    parser.add_argument("--expansions", type=int, nargs="+", default=[8, 16])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--kinds", nargs="+", choices=["topk", "cross_layer"], default=["topk", "cross_layer"])
    parser.add_argument("--serve", choices=list(PEERS | ACROSS), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.serve:
        serve(asked.serve)
        return
    if not asked.python:
        parser.error("--python is needed: the Python of an environment with the other libraries")
    from dictionaries import trained

    from caseback.decode.dictionaries import Recipe
    from caseback.decode.dictionaries.training.trainer import Trainer

    torch.set_num_threads(asked.threads)
    peers: dict[str, dict[str, Peer]] = {kind: {} for kind in asked.kinds}
    print("loss and gradients, the largest difference over the largest number:")
    for kind in asked.kinds:
        given = small() if kind == "topk" else small_across()
        for name in PEERS if kind == "topk" else ACROSS:
            peers[kind][name] = peer = Peer(asked.python, name)
            try:
                version = peer.ask(do="version")
                theirs = unpacked(peer.ask(do="gradients", given=packed(given)))
                auxiliary = name == "dictionary-learning"
                mine = own_gradients(given, auxiliary=auxiliary) if kind == "topk" else own_gradients_across(given)
                compare(f"{name} ({version})", theirs, mine)
            except (RuntimeError, OSError) as error:
                print(f"  {name}: {error}")
    load = f"{asked.rounds} rounds, load {os.getloadavg()[0]:.1f}"
    for expansion in asked.expansions if "topk" in asked.kinds else ():
        torch.manual_seed(0)
        x = states(False)
        trainer = trained("topk", expansion * D, 0.0, x)
        print(f"F = {expansion} d, {load}", flush=True)
        race(lambda own=trainer, x=x: own.step(x), peers["topk"], expansion * D, asked.rounds, asked.threads)
    if "cross_layer" in asked.kinds:
        torch.manual_seed(0)
        x, y = states(True)
        sites = [[f"{name}.{layer}" for layer in range(LAYERS)] for name in ("mlp_in", "mlp_out")]
        how = {"architecture": "cross_layer_topk", "options": {"k": K_ACROSS}, "width": LAYERS * 8 * D_ACROSS}
        recipe = Recipe(site=sites[0], target=sites[1], **how)
        trainer = Trainer(recipe, recipe.start(D_ACROSS, D_ACROSS), 10**9)
        trainer.begin(x, y)
        print(f"a cross-layer transcoder of {LAYERS} layers, F = 8 d each, {load}", flush=True)
        race(lambda: trainer.step(x, y), peers["cross_layer"], 8 * D_ACROSS, asked.rounds, asked.threads)
    for each in peers.values():
        for peer in each.values():
            peer.end()


if __name__ == "__main__":
    main()
