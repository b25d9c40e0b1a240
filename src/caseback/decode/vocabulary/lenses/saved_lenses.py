"""Lenses in safe files of ours: one safetensors file each, its description among the metadata, no pickle.

    lens             weight (row, d_model, d_model), bias (row, d_model)
    attention lens   down (head, d_model, rank), up (head, rank, d_model);  or weight (head, d_model, vocab)
    future prompt    vectors (pos, d_model)

Besides what every artifact says, the metadata hold ``fingerprint`` (of the model's final norm, unembedding and edits)
and the numbers that the tensors do not tell.
"""

from __future__ import annotations

import json
from pathlib import Path

from torch import Tensor

from caseback.artifacts.artifact import Artifact, load, save
from caseback.artifacts.kinds import ATTENTION_LENS, FUTURE_PROMPT, LENS
from caseback.decode.vocabulary.lenses.attention_lens import AttentionLens
from caseback.decode.vocabulary.lenses.future_prompt import FuturePrompt
from caseback.decode.vocabulary.lenses.lens import Lens
from caseback.errors import CasebackError
from caseback.model.arguments import checked
from caseback.model.running.model import Model


@checked
def save_lens(lens: Lens | AttentionLens | FuturePrompt, path: str | Path) -> None:
    """Write a lens, an attention lens or a future prompt to one safetensors file, whole or not at all.

    Parameters
    ----------
    lens
        What any of the ``fit_`` functions of lenses gave.
    path
        Where.

    Raises
    ------
    CasebackError
        For anything else.

    Examples
    --------
    >>> import tempfile, torch
    >>> lens = Lens("tuned", (0,), torch.eye(4)[None], torch.zeros(1, 4), n_layers=1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_lens(lens, Path(folder) / "a.safetensors")
    ...     load_lens(Path(folder) / "a.safetensors").kind
    'tuned'
    """
    if isinstance(lens, Lens):
        kind, facts = LENS, {"kind": lens.kind, "rows": json.dumps(lens.rows)}
        facts |= {"n_layers": str(lens.n_layers), "ahead": str(lens.ahead)}
        tensors: dict[str, Tensor | None] = {"weight": lens.weight, "bias": lens.bias}
    elif isinstance(lens, AttentionLens):
        kind, facts = ATTENTION_LENS, {"layer": str(lens.layer)}
        tensors = {"down": lens.down, "up": lens.up, "weight": lens.weight}
    elif isinstance(lens, FuturePrompt):
        kind, facts = FUTURE_PROMPT, {"row": str(lens.row)}
        facts |= {"target_row": str(lens.target_row), "ahead": str(lens.ahead)}
        tensors = {"vectors": lens.vectors}
    else:
        raise CasebackError(
            f"a {type(lens).__name__} is not a lens: expected a Lens, an AttentionLens or a FuturePrompt"
        )
    held = {name: value for name, value in tensors.items() if value is not None}
    save(Artifact(held, {**facts, "fingerprint": lens.fingerprint}, lens.provenance), kind, path)


@checked
def load_lens(path: str | Path, model: Model | None = None) -> Lens:
    """Read a ``Lens`` that ``save_lens`` wrote.

    Parameters
    ----------
    path
        The file.
    model
        The model. With it a lens of another one is refused at once, not only when it is used.

    Raises
    ------
    LoadError
        For a file that is not a lens, lacks something, or holds tensors of other shapes than it says.
    CasebackError
        For a lens of another model.
    """

    def build(artifact: Artifact) -> Lens:
        facts, tensors = artifact.facts, artifact.tensors
        rows, n_layers, ahead = tuple(json.loads(facts["rows"])), int(facts["n_layers"]), int(facts["ahead"])
        artifact.expect({"weight": "row d_model d_model", "bias": "row d_model"}, row=len(rows))
        own = facts["fingerprint"], dict(artifact.provenance)
        return Lens(facts["kind"], rows, tensors["weight"], tensors["bias"], n_layers, ahead, *own)

    return load(path, LENS, build, None if model is None else lambda lens: lens.expect(model))


@checked
def load_attention_lens(path: str | Path, model: Model | None = None) -> AttentionLens:
    """Read an ``AttentionLens`` that ``save_lens`` wrote.

    Parameters
    ----------
    path, model
        As for ``load_lens``.

    Raises
    ------
    LoadError, CasebackError
        As ``load_lens``.

    Examples
    --------
    >>> import tempfile
    >>> import caseback as cb
    >>> from caseback.decode.vocabulary import fit_attention_lens
    >>> model = cb.load("meadow")
    >>> lens = fit_attention_lens(model, ["Mary went to the store."], layer=2, rank=1, steps=1, tokens_per_step=4)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_lens(lens, Path(folder) / "heads.safetensors")
    ...     load_attention_lens(Path(folder) / "heads.safetensors", model).provenance == lens.provenance
    True
    """

    def build(artifact: Artifact) -> AttentionLens:
        free = {"weight": "head d_model vocab"}
        low_rank = {"down": "head d_model rank", "up": "head rank d_model"}
        artifact.expect(free if "weight" in artifact.tensors else low_rank)
        down, up, weight = (artifact.tensors.get(name) for name in ("down", "up", "weight"))
        return AttentionLens(
            int(artifact.facts["layer"]), down, up, weight, artifact.facts["fingerprint"], dict(artifact.provenance)
        )

    return load(path, ATTENTION_LENS, build, None if model is None else lambda lens: lens.expect(model))


@checked
def load_future_prompt(path: str | Path, model: Model | None = None) -> FuturePrompt:
    """Read a ``FuturePrompt`` that ``save_lens`` wrote.

    Parameters
    ----------
    path, model
        As for ``load_lens``.

    Raises
    ------
    LoadError, CasebackError
        As ``load_lens``.

    Examples
    --------
    >>> import tempfile
    >>> import caseback as cb
    >>> from caseback.decode.vocabulary import fit_future_prompt
    >>> model = cb.load("meadow")
    >>> prompt = fit_future_prompt(model, ["Monday, Tuesday, Wednesday"], row=2, steps=1, states_per_step=2)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_lens(prompt, Path(folder) / "prompt.safetensors")
    ...     bool((load_future_prompt(Path(folder) / "prompt.safetensors", model).vectors == prompt.vectors).all())
    True
    """

    def build(artifact: Artifact) -> FuturePrompt:
        artifact.expect({"vectors": "pos d_model"})
        row, target_row, ahead = (int(artifact.facts[name]) for name in ("row", "target_row", "ahead"))
        own = artifact.facts["fingerprint"], dict(artifact.provenance)
        return FuturePrompt(artifact.tensors["vectors"], row, target_row, ahead, *own)

    return load(path, FUTURE_PROMPT, build, None if model is None else lambda prompt: prompt.expect(model))
