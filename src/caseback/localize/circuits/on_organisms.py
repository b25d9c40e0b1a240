"""Discovery methods on models whose circuits are known, because they were written (PRIMER 3.2.21, 6.31).

For every compiled organism: prompts that it answers, counterfactuals drawn from the same words, and the AUROC of each
method's edges against the true ones. Edges outside the truth can be cut to zero without changing any logit. Methods
that measure take the KL divergence from the model at every position; gradients of that vanish at the model itself, so
methods that differentiate take the margin of the model's own answers over all other words, in float32 as the models are
shipped.

Counterfactuals have the same positions as the prompts, so that no method that uses them can see an edge out of the
position embedding: those edges do not count for it.
"""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Callable, Sequence
from typing import Any

import xarray as xr
from torch import Tensor

from caseback.errors import CasebackError, did_you_mean
from caseback.jobs.progress import progress_bar
from caseback.localize.circuits.edge_patching import patch_edges
from caseback.localize.circuits.edge_pruning import edge_pruning
from caseback.localize.circuits.edge_removal import acdc
from caseback.localize.circuits.known import edge_roc
from caseback.localize.circuits.methods import METHODS, find_circuit, methods
from caseback.model.circuit import Circuit, Edge
from caseback.model.graph.graph import Graph
from caseback.model.loading.load import load
from caseback.model.running.metrics import Bound, Metric
from caseback.model.running.model import Model
from caseback.model.running.tokens import Tokens

INPUTS = ("embed", "pos_embed")
COLUMNS = ("exact, zero", "ACDC, zero", "exact", "ACDC", "EAP", "EAP, zero", "EAP-IG", "EAP-IG act.", "pruning")
"""The methods of the table; unless a name says otherwise, edges carry the counterfactual's write. Pruning (of edges,
3.2.27) is given the true number of edges and judged by the circuit that it finds."""
_STEPS = 300
"""Of edge pruning: a tenth of the paper's, on models that are smaller by more than that."""
_THRESHOLD = 1e-12
"""Smaller than the effect of any edge that matters, larger than what rounding in float64 leaves of none."""


def on_organisms(
    names: Sequence[str] | None = None,
    *,
    count: int = 16,
    seed: int = 0,
    more: Sequence[str] = (),
    progress: bool = False,
) -> list[dict[str, Any]]:
    """AUROC of each method against the true edges of compiled organisms.

    Parameters
    ----------
    names
        Organisms; all by default.
    count
        Prompts for each.
    seed
        Same seed, same result. It draws the prompts' words.
    more
        Further methods by name, as ``find_circuit`` knows them, judged by the circuit that they find at the true number
        of edges.
    progress
        Show a progress bar.

    Returns
    -------
    list of dict
        One per organism: ``name``, ``edges``, ``true_edges``, ``auroc`` by method, ``seconds`` by method, and for the
        exact methods ``missed``, true edges that they give no score.

    Raises
    ------
    CasebackError
        For an unknown organism or method.

    Examples
    --------
    >>> row = on_organisms(["previous_token"], count=6)[0]
    >>> row["true_edges"], row["auroc"]["exact, zero"], row["auroc"]["ACDC, zero"]
    (4, 1.0, 1.0)
    """
    from caseback.organisms import compiled

    known = compiled.names()
    chosen = known if names is None else list(names)
    unknown = [name for name in chosen if name not in known]
    if unknown:
        raise CasebackError(f"no organism is called {unknown[0]!r}. {did_you_mean(unknown[0], known)}")
    odd = [name for name in more if name not in methods()]
    if odd:
        raise CasebackError(f"no method is called {odd[0]!r}. {did_you_mean(odd[0], methods())}")
    return [_row(compiled.build(name), count, seed, more) for name in progress_bar(chosen, "organisms", show=progress)]


def _row(organism: Any, count: int, seed: int, more: Sequence[str]) -> dict[str, Any]:
    model = organism.model
    # effects are measured in float64, since where a model does a thing twice an edge's own may be as small as 1e-10
    double = load(copy.deepcopy(model.hf).double(), tokenizer=model.tokenizer)
    truth = Circuit(organism.circuit.at_all_positions().edges)
    clean, corrupt = (organism.tokens(words(organism, count, seed + part)) for part in (0, 1))
    agreement, margin = answers_kept(double, clean), answers_margin(model, clean)
    every = len(Graph.of(model.anatomy, INPUTS).edges)
    row: dict[str, Any] = {"edges": every, "true_edges": len(truth), "auroc": {}, "seconds": {}, "missed": []}

    def note(name: str, function: Any, *given: Any, **options: Any) -> Any:
        start = time.process_time()
        mine = double if function in (patch_edges, acdc) else model
        result = function(mine, clean, *given, inputs=INPUTS, **options)
        without = () if name.endswith(", zero") else ("pos_embed",)
        roc = edge_roc(model, result, truth, reduce="mean_of_abs", without=without)
        row["seconds"][name] = time.process_time() - start
        row["auroc"][name] = roc.attrs["auroc"]
        return result

    for ablation, suffix in (("zero", ", zero"), ("resample", "")):
        effects = note(f"exact{suffix}", patch_edges, corrupt, agreement, ablation=ablation)
        note(f"ACDC{suffix}", acdc, corrupt, agreement, threshold=_THRESHOLD, ablation=ablation)
        if ablation == "zero":
            sizes = abs(effects).mean("batch")
            row["missed"] = [str(edge) for edge in sorted(truth.edges) if float(_score(sizes, edge)) < _THRESHOLD]
    for name, method, source in (
        ("EAP", "eap", corrupt),
        ("EAP, zero", "eap", None),
        ("EAP-IG", "eap-ig", corrupt),
        ("EAP-IG act.", "eap-ig-activations", corrupt),
    ):
        note(name, METHODS[method].function, source, margin, **METHODS[method].settings)
    shut = 1 - len(truth) / every
    note("pruning", edge_pruning, corrupt, answers_lost(model, clean), sparsity=shut, steps=_STEPS)
    for name in more:
        note(name, find_circuit, corrupt, margin, method=name, edges=len(truth))
    return {"name": organism.name, **row}


def words(organism: Any, count: int, seed: int) -> list[list[str]]:
    """Prompts of an organism's words, of many drawn those that it answers at the most positions."""
    from caseback.organisms.compiled import indirect_object

    rng = random.Random(f"{organism.name}-{seed}")
    if organism.name == "indirect_object":
        drawn = [prompt for prompt, _ in indirect_object.prompts()]
        length = max(set(map(len, drawn)), key=[len(prompt) for prompt in drawn].count)
        return rng.sample([prompt for prompt in drawn if len(prompt) == length], count)
    length = min(organism.max_length, 10)
    drawn = [[rng.choice(organism.inputs) for _ in range(length)] for _ in range(20 * count)]

    def answered(prompt: list[str]) -> int:
        outputs = organism.function(prompt)
        return sum(word is not None for word in outputs) + length * (outputs[-1] is not None)

    return sorted(drawn, key=answered, reverse=True)[:count]


def answers_lost(model: Model, tokens: Tokens) -> Metric:
    """The KL divergence from the model's own next-token distributions, the mean over positions."""
    value = _divergence(model, tokens)
    return Metric("KL", lambda *_: Bound(None, None, value), pos=None)


def answers_kept(model: Model, tokens: Tokens) -> Metric:
    """Minus what ``answers_lost`` gives."""
    value = _divergence(model, tokens)
    return Metric("minus KL", lambda *_: Bound(None, None, lambda x, rows: -value(x, rows)), pos=None)


def _divergence(model: Model, tokens: Tokens) -> Callable[[Tensor, Tensor], Tensor]:
    log_p = model.run(tokens).logits.detach().log_softmax(-1)

    def value(x: Tensor, rows: Tensor) -> Tensor:
        reference = log_p[rows].to(x.device)
        return (reference.exp() * (reference - x.log_softmax(-1))).sum(-1).mean(-1)

    return value


def answers_margin(model: Model, tokens: Tokens) -> Metric:
    """The logit of the model's own answers less the mean logit, the mean over positions."""
    best = model.run(tokens).logits.detach().argmax(-1)

    def value(x: Tensor, rows: Tensor) -> Tensor:
        own = x.gather(-1, best[rows].to(x.device)[..., None])[..., 0]
        return (own - x.mean(-1)).mean(-1)

    return Metric("margin", lambda *_: Bound(None, None, value), pos=None)


def _score(sizes: xr.DataArray, edge: Edge) -> xr.DataArray:
    reader = f"{edge.target}.{edge.slot}" if edge.slot else str(edge.target)
    return sizes.sel(writer=str(edge.source), reader=reader)
