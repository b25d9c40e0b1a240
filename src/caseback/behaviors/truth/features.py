"""What detectors read of statements, all of it in one pass of the model.

stream, heads (place, example, d) at the last token; attention by layer and head as one vector; numbers as scores
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from caseback.behaviors.truth.attention import constraint_reading, lookback_reading
from caseback.behaviors.truth.batches import Marked, Reading, marked_statements, read_all
from caseback.behaviors.truth.confidence import confidence_reading
from caseback.behaviors.truth.lens_scores import attribute_reading, sharp_layer, sharpness_reading, upper_layers
from caseback.decode.probes.baselines import bag_of_tokens, untrained
from caseback.decode.states import Place
from caseback.errors import CasebackError
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.anatomy.sites import Site
from caseback.model.running.model import Model
from caseback.model.running.run import Run
from caseback.tasks.statements import Statements

VOCABULARY = 1000
DEEP = 0.6
"""SAPLMA reads layers from this share of the depth on."""


class Features(dict[str, tuple[list[str], Float[Tensor, "place example d"]]]):
    """Features by name, each with the names of its places; a score is one place of width 1."""


def read_features(
    model: Model, statements: Statements, wanted: Sequence[str], *, seed: int = 0, progress: bool = False
) -> Features:
    """Read what some detectors need.

    Raises
    ------
    EditError, TokensError, OutOfRange
        As ``marked_statements``.
    """
    given = marked_statements(model, statements)
    readings = _readings(model, set(wanted))
    values = read_all(model, given, readings, progress=progress)
    features = Features()
    layers = [str(Place("resid_post", layer)) for layer in range(model.n_layers)]
    if "stream" in values:
        x = values.pop("stream").transpose(0, 1)
        deep = int(DEEP * model.n_layers)
        features["stream"] = layers, x
        features["upper stream"] = layers[deep:], x[deep:]
    if "heads" in values:
        x = values.pop("heads")  # (example, layer, head, d)
        names = [str(Place("z", layer, head)) for layer in range(x.shape[1]) for head in range(x.shape[2])]
        features["heads"] = names, x.flatten(1, 2).transpose(0, 1)
    for name in ("constraint", "lookback"):
        if name in values:
            x = values.pop(name).flatten(1)
            features[name] = ["all heads"], x[:, ~x.isnan().any(0)][None]
    if "attribute" in values:
        values["attribute"] = values["attribute"].mean(1)
    if "sharpness" in values:
        values["sharpness"] = -values["sharpness"]
    if "confidence" in values:
        answer, text = values.pop("confidence").chunk(2, 1)
        values |= {"answer log_prob": answer[:, 0], "min_prob": answer[:, 2], "entropy": -answer[:, 3]}
        values |= {"log_prob": text[:, 0], "mean_log_prob": text[:, 1]}
    features |= {name: ([""], value[None, :, None]) for name, value in values.items()}
    if "length" in wanted:
        characters = torch.tensor([len(text) for text in statements.texts])
        features["length"] = [""], torch.stack([given.tokens.lengths.cpu(), characters], 1)[None].double()
    if "bag" in wanted:
        features["bag"] = [""], bag_of_tokens(given.tokens, VOCABULARY)[None]
    if "untrained" in wanted:
        other = read_all(untrained(model, seed), given, {"stream": _stream(model)}, progress=progress)["stream"]
        features["untrained"] = layers, other.transpose(0, 1)
    for name, (_, x) in features.items():
        if not bool(x.isfinite().all()):
            raise CasebackError(f"{name} of these statements has numbers that are not finite")
    return features


def _readings(model: Model, wanted: set[str]) -> dict[str, Reading]:
    readings: dict[str, Reading] = {}
    if wanted & {"stream", "upper stream"}:
        readings["stream"] = _stream(model)
    if "heads" in wanted:
        readings["heads"] = _heads(model)
    if "constraint" in wanted:
        readings["constraint"] = constraint_reading(model)
    if "lookback" in wanted:
        readings["lookback"] = lookback_reading(model)
    if "sharpness" in wanted:
        readings["sharpness"] = sharpness_reading(model, Site("resid_post", sharp_layer(model)))
    if "attribute" in wanted:
        readings["attribute"] = attribute_reading(model, upper_layers(model))
    if wanted & {"answer log_prob", "min_prob", "entropy", "log_prob", "mean_log_prob"}:
        readings["confidence"] = confidence_reading(model, whole=True)
    return readings


def _stream(model: Model) -> Reading:
    sites = [Site("resid_post", layer) for layer in range(model.n_layers)]
    return Reading(sites, lambda run, given: _last(run, given, sites))


def _heads(model: Model) -> Reading:
    sites = list(model.anatomy.sites("z"))
    sizes = {(dims.n_heads, dims.d_head) for dims in (model.anatomy.layers[int(s.layer or 0)].dims for s in sites)}
    if len(sizes) > 1:
        raise CasebackError("the heads of this model are of several sizes: leave out the detector 'head'")
    return Reading(sites, lambda run, given: _last(run, given, sites))


def _last(run: Run, given: Marked, sites: Sequence[Site]) -> Float[Tensor, "batch layer *d"]:
    return torch.stack([at_least_float32(run[site][given.row, given.last]) for site in sites], 1)
