"""Products in bfloat16: what is computed in them and what is not, planted features, and going on with the same bits."""

from typing import Any

import pytest
import torch

from caseback.decode.dictionaries import (
    Recipe,
    architecture_of,
    architectures,
    dictionary,
    train_dictionaries,
)
from caseback.decode.dictionaries.training.trainer import Trainer
from caseback.errors import ArgumentError
from planted_features import CHOSEN, found

D, F = 32, 64
FEWER = [name for name, kind in architectures().items() if kind.fewer_bits]


def several(name: str) -> bool:
    return bool({"n_sources", "n_layers"} & set(architecture_of(name).options))


def recipe(name: str, **more: Any) -> Recipe:
    kind = architecture_of(name)
    sources = {"site": ["a", "b"] if several(name) else "a"}
    options: dict[str, Any] = {"options": {"k": 4}} if "k" in kind.options else {"coefficient": 0.1}
    return Recipe(**{"architecture": name, "width": F, **sources, **options, **more})


def trainer(name: str, x: torch.Tensor, **more: Any) -> Trainer:
    own = recipe(name, **more)
    started = Trainer(own, own.start(D, D), 10_000)
    started.begin(x, x)
    started.clock[:5] = 10**8  # some are dead: the auxiliary loss is on
    return started


def states(name: str, n: int = 256, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, *([2] if several(name) else []), D, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("name", FEWER)
def test_products_are_rounded_and_all_that_stays_is_not(monkeypatch, name, sparse):
    """The gradient is that of float32 but for rounding, through sums over bags and through whole matrices."""
    monkeypatch.setattr(dictionary, "DENSE_ABOVE", 2.0 if sparse else -1.0)
    x, grads = states(name), []
    for products in ("float32", "bfloat16"):
        own, seen = trainer(name, x, products=products), []
        read: Any = own.dictionary.read
        own.dictionary.read = lambda x, read=read, seen=seen: seen.append(read(x).dtype) or read(x)
        losses = own.step(x)
        assert set(seen) == {getattr(torch, products)}
        assert all(value.dtype == torch.float32 for value in (losses.total, losses.error, losses.errors))
        for value in own.dictionary.parameters():
            kept = [value.grad, *own.optimizer.state[value].values()]
            assert {value.dtype, *(one.dtype for one in kept if one is not None)} == {torch.float32}
        grads.append(
            torch.cat(
                [
                    torch.zeros(0) if value.grad is None else value.grad.flatten()
                    for value in own.dictionary.parameters()
                ]
            )
        )
    assert not torch.equal(*grads)
    assert float(torch.nn.functional.cosine_similarity(*grads, dim=0)) > 0.99


@pytest.mark.parametrize("name", sorted(set(architectures()) - set(FEWER)))
def test_what_needs_all_bits_says_so(name):
    with pytest.raises(ArgumentError, match=f"{name} .*products in float32 alone"):
        recipe(name, products="bfloat16")


@pytest.mark.parametrize("kind", ["topk", "batch_topk", "jump_relu"])
def test_planted_features_are_found_as_in_float32(kind):
    whole = found(kind, 0, **CHOSEN[kind])
    assert abs(found(kind, 0, **CHOSEN[kind], products="bfloat16") - whole) < 0.01 and whole > 0.99


def test_an_interrupted_training_goes_on_with_the_same_bits(tmp_path, monkeypatch):
    x = {"a": states("topk", 2000)}
    recipes = [recipe(name, products="bfloat16") for name in ("topk", "jump_relu")]
    how: Any = {"n_tokens": 3000, "step_tokens": 100, "pool_tokens": 500}
    whole = train_dictionaries(None, x, recipes, **how)
    monkeypatch.setattr("caseback.decode.dictionaries.training.train.SAVE_EVERY", 0.0)
    step, steps = Trainer.step, []

    def interrupted(self, *given, **more):
        steps.append(1)
        if len(steps) == 31:
            raise KeyboardInterrupt
        return step(self, *given, **more)

    monkeypatch.setattr(Trainer, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_dictionaries(None, x, recipes, checkpoint=tmp_path / "training", **how)
    monkeypatch.setattr(Trainer, "step", step)
    resumed = train_dictionaries(None, x, recipes, checkpoint=tmp_path / "training", **how)
    for one, other in zip(whole, resumed, strict=True):
        for name, value in one.dictionary.state_dict().items():
            assert torch.equal(value, other.dictionary.state_dict()[name]), name
