"""Tuned and Jacobian lenses in the layouts in which they are published; ``saved_lenses`` has ours.

The tuned-lens package's layout is a folder with ``config.json`` and ``params.pt`` ("{i}.weight", "{i}.bias":
h + h weight^T + bias for the stream before layer i); the Jacobian lens's is one ``.pt`` with {"J": {layer: (d, d)},
"n_prompts", "source_layers", "d_model"}, J_l to be read after layer l. Both hold pickles: they are read only if asked
for, and then with ``weights_only=True``.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from caseback.decode.vocabulary.lenses.lens import Lens
from caseback.errors import CasebackError
from caseback.jobs.fingerprint import raw_digest
from caseback.jobs.json_text import expect_form
from caseback.jobs.pickles import read_pickle
from caseback.jobs.safe_files import read_json, read_tensors
from caseback.jobs.warned import warn
from caseback.jobs.whole_file import make_folder, whole_file
from caseback.model.anatomy.dense import weight_matrix
from caseback.model.arguments import checked
from caseback.model.running.model import Model


@checked
def save_tuned_lens(lens: Lens, folder: str | Path, model: Model) -> None:
    """Write a tuned lens in the tuned-lens package's layout.

    Parameters
    ----------
    lens
        Of one map for every depth but the end, in order.
    folder
        Made if it is not there.
    model
        The model. The config notes its name and unembedding.

    Raises
    ------
    CasebackError
        For a lens that the layout cannot hold, and for a model under edits, of which it says nothing.
    """
    if lens.rows != tuple(range(lens.n_layers)) or lens.ahead:
        raise CasebackError(f"the tuned-lens layout holds one map for each of {lens.n_layers} depths: {lens.rows}")
    lens.expect(model)
    if model.anatomy.standing:
        raise CasebackError(f"the tuned-lens layout cannot say what {model!r} stands under: write it with save_lens")
    folder = Path(folder)
    make_folder(folder, "the lens")
    identity = torch.eye(lens.d_model).to(lens.weight)
    params = {}
    for i in range(lens.n_layers):
        params[f"{i}.weight"] = (lens.weight[i] - identity).T.contiguous()
        params[f"{i}.bias"] = lens.bias[i].clone()
    config = {
        "base_model_name_or_path": model.name,
        "base_model_revision": None,
        "bias": True,
        "d_model": lens.d_model,
        "lens_type": "linear_tuned_lens",
        "num_hidden_layers": lens.n_layers,
        "unembed_hash": _unembed_hash(model),
    }
    with whole_file(folder / "params.pt") as draft:
        torch.save(params, draft)
    with whole_file(folder / "config.json") as draft:
        draft.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


@checked
def load_tuned_lens(folder: str | Path, model: Model, *, pickle: bool = False) -> Lens:
    """Read a lens in the tuned-lens package's layout.

    Parameters
    ----------
    folder
        With ``config.json`` and ``params.pt``, or ``params.safetensors`` of the same names.
    model
        The model. It must be the one that the lens is for.
    pickle
        Allow ``params.pt``, which is a pickle; it is read with ``weights_only=True``.

    Raises
    ------
    LoadError
        For a missing or malformed file, and for a pickle that was not asked for.
    CasebackError
        Where width or depth are not the model's. A differing ``unembed_hash`` only warns: it depends on how numpy
        prints.
    """
    folder = Path(folder)
    config = read_json(folder / "config.json")
    tensors = _tensors(folder / "params", pickle)
    with expect_form(f"{folder} is not in the tuned-lens layout"):
        d, n = int(config["d_model"]), int(config["num_hidden_layers"])
        weight = torch.stack([tensors[f"{i}.weight"].float().T for i in range(n)]) + torch.eye(d)
        bias = torch.stack([tensors.get(f"{i}.bias", torch.zeros(d)).float() for i in range(n)])
    lens = Lens("tuned", tuple(range(n)), weight, bias, n, provenance={"source": str(folder.name)})
    lens.expect(model)
    if config.get("unembed_hash") not in (None, _unembed_hash(model)):
        warn(
            f"{folder} notes another unembed_hash than this model's: it may have been fitted for another model",
            stacklevel=2,
        )
    return lens


@checked
def save_jacobian_lens(lens: Lens, path: str | Path) -> None:
    """Write a Jacobian lens in its published layout: 16-bit matrices by the layer after which they read.

    Raises
    ------
    CasebackError
        For a lens with a bias or one that reads the embedding, which the layout has no place for.
    """
    if bool(lens.bias.any()):
        raise CasebackError("the Jacobian layout holds no bias, and this lens has one")
    if 0 in lens.rows:
        raise CasebackError("the Jacobian layout counts from the stream after layer 0: fit with rows=range(1, ...)")
    layers = [row - 1 for row in lens.rows]
    held = {
        "J": {layer: w.T.half().contiguous() for layer, w in zip(layers, lens.weight, strict=True)},
        "n_prompts": int(lens.provenance.get("prompts", 0)),
        "source_layers": layers,
        "d_model": lens.d_model,
    }
    with whole_file(path) as draft:
        torch.save(held, draft)


@checked
def load_jacobian_lens(path: str | Path, model: Model, *, pickle: bool = False) -> Lens:
    """Read a Jacobian lens in its published layout.

    Parameters
    ----------
    path
        The ``.pt`` file.
    model
        The model. It must be the one that the lens is for.
    pickle
        The layout is a pickle: it is read only where this is true, with ``weights_only=True``.

    Raises
    ------
    LoadError
        For a file that is not a lens, and for a pickle that was not asked for.
    CasebackError
        Where the width is not the model's.
    """
    held: dict[str, Any] = read_pickle(path, pickle, option="pickle=True")
    with expect_form(f"{path} is not a published Jacobian lens"):
        matrices = {int(layer): value.float() for layer, value in held["J"].items()}
        prompts = int(held["n_prompts"])
        rows = sorted(matrices)
        weight = torch.stack([matrices[layer].T for layer in rows])
    lens = Lens(
        "jacobian",
        tuple(layer + 1 for layer in rows),
        weight,
        weight.new_zeros(weight.shape[:2]),
        model.n_layers,
        provenance={"prompts": prompts, "source": Path(path).name},
    )
    lens.expect(model)
    return lens


@checked
def merge_jacobian_lenses(lenses: list[Lens]) -> Lens:
    """The lens of all prompts together, from lenses of some each: a mean weighted by their numbers.

    Raises
    ------
    CasebackError
        For none, and for lenses of different depths, widths or models.
    """
    if not lenses:
        raise CasebackError("no lens to merge: expected at least one")
    first = lenses[0]
    for other in lenses:
        if (other.rows, other.weight.shape, other.fingerprint) != (first.rows, first.weight.shape, first.fingerprint):
            raise CasebackError("these lenses are of different depths, widths or models and cannot be merged")
    counts = torch.tensor([float(lens.provenance["prompts"]) for lens in lenses])
    weight = torch.einsum("l,lrde->rde", counts / counts.sum(), torch.stack([lens.weight.float() for lens in lenses]))
    provenance = {**first.provenance, "prompts": int(counts.sum())}
    return Lens(first.kind, first.rows, weight, first.bias, first.n_layers, first.ahead, first.fingerprint, provenance)


def _unembed_hash(model: Model) -> str:
    """The tuned-lens package's checksum of W_U, which goes by how numpy prints it."""
    matrix = weight_matrix(model.anatomy.unembed).detach().T.float().cpu().numpy()
    return raw_digest(np.array_str(matrix, precision=1).encode())


def _tensors(stem: Path, pickle: bool) -> dict[str, Any]:
    safe = stem.with_suffix(".safetensors")
    return (
        read_tensors(safe)[0]
        if os.path.isfile(safe)
        else read_pickle(stem.with_suffix(".pt"), pickle, option="pickle=True")
    )
