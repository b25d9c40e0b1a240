"""LoReFT as pyreft keeps it: a folder with ``config.json`` and a pickle of tensors for each place.

    representations[i] = [layer, component, unit, ...],   sorted_keys[i] names intkey_{sorted_keys[i]}.bin
    weight (r, d),  bias (r,),  rotate_layer (d, r):      x + rotate_layer (weight x + bias - rotate_layer^T x)

The folder does not say which positions are edited: that was an option of the training data.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from caseback.decode.states import Place, expect_places
from caseback.decode.steering.reft import ReFT
from caseback.errors import CasebackError, LoadError
from caseback.jobs.json_text import parse_json
from caseback.jobs.pickles import unpickled
from caseback.jobs.text_file import read_text
from caseback.model.arguments import checked
from caseback.model.running.model import Model

SITES = {"block_output": "resid_post", "block_input": "resid_pre", "mlp_output": "mlp_out"}
"""pyvene's components that are a site of ours, one vector at each token."""


@checked
def load_pyreft(
    folder: str | Path,
    *,
    allow_pickle: bool = False,
    first: int | None = 7,
    last: int | None = 7,
    model: Model | None = None,
) -> ReFT:
    """Read a LoReFT that pyreft saved (``reft_model.save``).

    Parameters
    ----------
    folder
        With ``config.json`` and ``intkey_*.bin``.
    allow_pickle
        Must be True: the tensors are pickles. They are read with ``weights_only=True``, which runs no code.
    first, last
        How many of each prompt's first and last positions are edited, as it was trained; pyreft's ``positions="f7+l7"``
        is 7 and 7. None for both edits all positions.
    model
        The model that it is to act on, if it is to be held against it.

    Returns
    -------
    ReFT
        ``reft.edits(model, prompts)`` are its edits; ``save_reft`` keeps it in one file without pickles.

    Raises
    ------
    LoadError
        For a folder of another form, another kind of intervention, or a component that is no site of one vector a
        token; with ``model``, for layers that it lacks or another width.
    CasebackError
        Without ``allow_pickle``.

    Notes
    -----
    Entry 4.2.11. An activation function (``act_fn=``) is not kept in the folder; without one the map is affine, which
    is what is read.

    Examples
    --------
    ::

        reft = load_pyreft("my_loreft", allow_pickle=True, model=model)
        model.generate(prompts, edits=reft.edits(model, prompts))
    """
    folder = Path(folder)
    if not allow_pickle:
        raise CasebackError(f"{folder} holds pickles: pass allow_pickle=True to read them, with weights_only=True")
    try:
        config = parse_json(read_text(folder / "config.json"))
        shown, keys = config["representations"], config["sorted_keys"]
        kinds = config.get("intervention_types", [])
        places = [_place(entry) for entry in shown]
        if len(keys) != len(places) or not places or not all(isinstance(key, str) for key in keys):
            raise ValueError("sorted_keys")
    except (AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise LoadError(f"{folder}/config.json is none that pyreft wrote ({type(error).__name__}: {error})") from None
    if other := [str(kind)[:80] for kind in kinds if "LoreftIntervention" not in str(kind)]:
        raise LoadError(f"{folder} holds {other[0]}: expected LoreftIntervention")
    by_layer = {}
    for key in keys:
        number = re.match(r"layer[._](\d{1,6})[._]comp[._]([a-z_]+?)[._]unit", key)
        if number is None or "/" in key or "\\" in key:
            raise LoadError(f"{folder} has a place {key[:80]!r}, which is none of a layer's component")
        place = _place([int(number[1]), number[2]])
        by_layer[place] = _tensors(folder / f"intkey_{key}.bin")
    if set(by_layer) != set(places) or len(by_layer) != len(keys):
        raise LoadError(f"{folder}: sorted_keys and representations are of other places")
    order = sorted(by_layer, key=lambda place: (place.layer, place.site))
    if len({by_layer[place][0].shape for place in order}) > 1:
        raise LoadError(f"{folder} holds maps of several ranks or widths: expected one of each")
    rows, weight, bias = (torch.stack([by_layer[place][i] for place in order]) for i in range(3))
    if model is not None:
        expect_places(model, order, rows.shape[2], str(folder))
    return ReFT(rows, weight, bias, order, "loreft", first, last)


def _place(entry: Any) -> Place:
    """Where a representation of pyvene's config is: a list in the order of its fields, or their names."""
    layer, component = (entry["layer"], entry["component"]) if isinstance(entry, dict) else entry[:2]
    if component not in SITES:
        raise LoadError(f"pyreft's component {str(component)[:60]!r} is none of {', '.join(SITES)}")
    if not isinstance(layer, int) or layer < 0:
        raise ValueError(f"layer {layer}")
    return Place(SITES[component], layer)


def _tensors(path: Path) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, weight and bias of one place."""
    value = unpickled(path)
    if not isinstance(value, dict) or {"weight", "bias", "rotate_layer"} - set(value):
        raise LoadError(f"{path} is none of LoReFT: expected weight, bias and rotate_layer")
    rotate, weight, bias = (value[name] for name in ("rotate_layer", "weight", "bias"))
    fits = all(isinstance(x, Tensor) and x.is_floating_point() for x in (rotate, weight, bias))
    if not fits or weight.ndim != 2 or rotate.shape != weight.mT.shape or bias.shape != weight.shape[:1]:
        raise LoadError(f"{path}: expected weight (r, d), bias (r,) and rotate_layer (d, r)")
    rows, weight, bias = (x.detach().to(torch.promote_types(x.dtype, torch.float32)) for x in (rotate.mT, weight, bias))
    if not bool(torch.cat([rows.flatten(), weight.flatten(), bias]).isfinite().all()):
        raise LoadError(f"{path} holds numbers that are not finite")
    return rows.contiguous(), weight, bias
