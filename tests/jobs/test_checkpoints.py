"""No kind of checkpoint is gone on with by another job: each depends on prompts, every weight, and options.

And none is read after a byte of it was changed, its end was cut off, or a folder took its place.
"""

import copy
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch

import caseback as cb
import shelf
from caseback.decode.steering import fit_reft
from caseback.decode.vocabulary import fit_tuned_lens
from caseback.decode.vocabulary.activating import activating_inputs
from caseback.errors import CasebackError, LoadError, WriteError
from caseback.localize.abstraction import At, Interchanges, boundless_das, das, interchange_training
from caseback.localize.circuits import acdc, edge_pruning, subnetwork_probing
from caseback.localize.inputs import gradient_similarity, retrained_outcomes
from caseback.model.sweeping.embedding_tree import replaced
from caseback.organisms.modular.train import train

PROMPTS, OTHER_PROMPTS = shelf.ids((6, 6)), shelf.ids((6, 6), seed=5)
CORRUPT = shelf.ids((6, 6), seed=1)
PLACE = At("resid_post", layer=0, pos=-1)


@dataclass(frozen=True)
class Given:
    """What a job is called with; ``changed`` is the same with one thing otherwise."""

    model: cb.Model = field(default_factory=lambda: shelf.model("gpt2"))
    prompts: Any = field(default_factory=lambda: PROMPTS)
    option: int = 0

    def changed(self, what: str) -> "Given":
        if what == "prompt":
            return replace(self, prompts=OTHER_PROMPTS)
        if what == "option":
            return replace(self, option=1)
        other = cb.load(copy.deepcopy(self.model.hf))
        with torch.no_grad():
            # the last weight of all, in a layer that nothing before it reads
            other.hf.transformer.h[-1].mlp.c_proj.bias[-1] += 1e-9
        return replace(self, model=other)


def swaps(given: Given) -> Interchanges:
    tokens = given.model.tokens(given.prompts * 2)
    targets = torch.tensor([3, 4, 5, 6])
    return Interchanges(tokens, {"a": given.model.tokens(CORRUPT * 2)}, targets, targets + 1)


def sweep(given: Given, path: Path) -> None:
    variants = [cb.Zero("z", layer=i, head=given.option) for i in range(2)]
    given.model.sweep(given.prompts, variants, cb.logit(3), checkpoint=path)


def tree(given: Given, path: Path) -> None:
    tokens, values = given.model.tokens(given.prompts), torch.zeros(1, 1, 1, given.model.d_model) + given.option
    choice = torch.eye(6, dtype=torch.long)[:, None].expand(-1, 2, -1)
    replaced(given.model.anatomy, tokens, choice, values, cb.logit(3), checkpoint=path)


def search(given: Given, path: Path) -> None:
    acdc(given.model, given.prompts, CORRUPT, cb.logit(3), threshold=1.0 + given.option, checkpoint=path)


def pruning(given: Given, path: Path) -> None:
    edge_pruning(given.model, given.prompts, CORRUPT, sparsity=0.5, steps=2, seed=given.option, checkpoint=path)


def probing(given: Given, path: Path) -> None:
    subnetwork_probing(given.model, given.prompts, CORRUPT, penalty=1.0, steps=2, seed=given.option, checkpoint=path)


def rotation(given: Given, path: Path) -> None:
    das(given.model, swaps(given), PLACE, k=1 + given.option, epochs=1, held_out=0.5, checkpoint=path)


def boundaries(given: Given, path: Path) -> None:
    boundless_das(given.model, swaps(given), PLACE, epochs=1, penalty=1.0 + given.option, checkpoint=path)


def proxy(given: Given, path: Path) -> None:
    interchange_training(
        given.model, swaps(given), {"a": PLACE}, epochs=1, lr=1e-3 * (1 + given.option), checkpoint=path
    )


def fine_tuning(given: Given, path: Path) -> None:
    answers = [[3], [4]]
    fit_reft(given.model, given.prompts, answers, rank=1 + given.option, layers=[0], epochs=1, checkpoint=path)


def lens(given: Given, path: Path) -> None:
    fit_tuned_lens(
        given.model, given.prompts, recipe="small", steps=1 + given.option, tokens_per_step=8, checkpoint=path
    )


def retraining(given: Given, path: Path) -> None:
    def trained(kept):
        return given.model

    def trained_otherwise(kept):
        return given.model or None

    # the model comes out of the training, whose code stands for it
    ours = given.model is shelf.model("gpt2")
    subsets = torch.eye(2 + given.option, dtype=torch.bool).numpy()
    retrained_outcomes(trained if ours else trained_otherwise, subsets, given.prompts, checkpoint=path)


def organism(given: Given, path: Path) -> None:
    # of a grokking run the pairs are the prompts, and its seed draws the first weights
    share, seed = (0.5 if given.prompts is PROMPTS else 0.4), int(given.model is not shelf.model("gpt2"))
    train(path.parent, steps=1, p=5 + 2 * given.option, share=share, seed=seed)


def gradients(given: Given, path: Path) -> None:
    parts = ("attn", "mlp")[given.option]
    gradient_similarity(given.model, [[5, 6, 7]], given.prompts, parts=parts, store=path.parent)


def units(given: Given, path: Path) -> None:
    activating_inputs(given.model, given.prompts, "mlp_post", layer=0, top=2 + given.option, store=path.parent)


def sweep_job(given: Given, path: Path) -> None:
    variants = [cb.Zero("z", layer=i, head=given.option) for i in range(2)]
    given.model.sweep(given.prompts, variants, cb.logit(3), folder=path.parent)


def retraining_job(given: Given, path: Path) -> None:
    train = Returning(given.model, given.option)
    retrained_outcomes(train, torch.eye(2, dtype=torch.bool).numpy(), given.prompts, folder=path.parent)


@dataclass(frozen=True)
class Returning:
    """A training that gives a model as it is; what it holds stands for it."""

    model: cb.Model
    option: int

    def __call__(self, kept):
        return self.model


FILES = {
    job.__name__: (job, name)
    for job, name in [
        *[
            (job, "job")
            for job in (
                sweep,
                tree,
                search,
                pruning,
                probing,
                rotation,
                boundaries,
                proxy,
                fine_tuning,
                lens,
                retraining,
            )
        ],
        (organism, "resume.npz"),
    ]
}
STORES = {
    "gradients": (gradients, ["index.json", "rows-00000.safetensors"]),
    "units": (units, ["job.json"]),
    "sweep_job": (sweep_job, ["job.json"]),
    "retraining_job": (retraining_job, ["job.json"]),
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Each job's folder, run once; a test takes a copy."""
    made: dict[str, Path] = {}

    def of(kind: str, into: Path) -> Path:
        job, name = FILES[kind] if kind in FILES else (STORES[kind][0], STORES[kind][1][0])
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp(kind) / "out"
            made[kind].mkdir()
            job(Given(), made[kind] / name)
        shutil.copytree(made[kind], into / "out")
        return into / "out" / name

    return of


KINDS = [*FILES, *STORES]


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_job_goes_on(kind, finished, tmp_path):
    path = finished(kind, tmp_path)
    job = FILES[kind][0] if kind in FILES else STORES[kind][0]
    job(Given(), path)


@pytest.mark.parametrize("what", ["prompt", "weight", "option"])
@pytest.mark.parametrize("kind", KINDS)
def test_another_job_is_refused(kind, what, finished, tmp_path):
    path = finished(kind, tmp_path)
    before = path.read_bytes()
    job = FILES[kind][0] if kind in FILES else STORES[kind][0]
    with pytest.raises(CasebackError) as refused:
        job(Given().changed(what), path)
    assert "\n" not in str(refused.value)
    if kind in FILES:
        assert isinstance(refused.value, LoadError) and "what differs: " in str(refused.value)
        assert path.read_bytes() == before
    if what == "weight" and kind in ("units", "sweep_job"):
        assert "model" in str(refused.value).partition("what differs: ")[2]
    if what == "weight" and kind in FILES and kind not in ("retraining", "organism"):
        assert "model" in str(refused.value).partition("what differs: ")[2]


def damaged(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    if how == "folder":
        path.unlink()
        path.mkdir()
    elif how == "cut":
        path.write_bytes(data[: len(data) - 9])
    elif how in ("short", "empty"):
        path.write_bytes(data[: 40 if how == "short" else 0])
    else:
        at = {"first": 0, "middle": len(data) // 2, "last": len(data) - 3}[how]
        data[at] ^= 1
        path.write_bytes(data)


HOW = ["first", "middle", "last", "cut", "short", "empty", "folder"]


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("kind", FILES)
def test_a_damaged_file_is_refused(kind, how, finished, tmp_path):
    path = finished(kind, tmp_path)
    damaged(path, how)
    with pytest.raises(LoadError) as refused:
        FILES[kind][0](Given(), path)
    assert path.name in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize(
    ("kind", "file"), [(kind, file) for kind, (_, files) in STORES.items() for file in files], ids=lambda x: x
)
def test_a_damaged_store_is_refused(kind, file, how, finished, tmp_path):
    path = finished(kind, tmp_path)
    damaged(path.parent / file, how)
    with pytest.raises(LoadError) as refused:
        STORES[kind][0](Given(), path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("kind", STORES)
def test_a_file_in_a_stores_place_is_refused(kind, tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises((LoadError, WriteError), match="out"):
        STORES[kind][0](Given(), tmp_path / "out" / STORES[kind][1][0])
    assert (tmp_path / "out").read_text() == "mine"


def test_a_checkpoint_needs_a_folder_to_lie_in(tmp_path):
    with pytest.raises(LoadError, match="folder that does not exist"):
        sweep(Given(), tmp_path / "nowhere" / "job")


def test_an_edit_by_a_lambda_is_refused_by_name(tmp_path):
    model = shelf.model("gpt2")
    variants = [cb.Apply("z", function=lambda x: x * 2, layer=0)]
    model.sweep(PROMPTS, variants, cb.logit(3))
    with pytest.raises(CasebackError, match="edits.*is a lambda.*test_an_edit_by_a_lambda.*that has a name"):
        model.sweep(PROMPTS, variants, cb.logit(3), checkpoint=tmp_path / "job")
