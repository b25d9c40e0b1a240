"""A function as what one MLP adds, as plain data: the answer's log probability by layer, beside three controls.

    layer = argmax of the mean log probability on one half of the queries;    gain, error   on the other half

It adds the function where this gain, less two standard errors, is past those of random vectors and of copying there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from caseback.errors import CasebackError
from caseback.model.arguments import checked
from caseback.model.running.model import Model
from caseback.reports.document import DocumentKind
from caseback.reports.model_facts import model_facts
from caseback.reports.tables.result_of import expect_result

__all__ = ["ARGUMENT_FUNCTION", "argument_function_document"]

CURVES = ("function", "copying", "answers", "arguments")
ERRORS = 2


def _lengths(document: Mapping[str, Any]) -> None:
    n, random = len(document["layers"]), document["random"]
    curves = [document["curves"][name] for name in CURVES] + list(random.values() if random else ())
    if odd := [len(curve) for curve in curves if len(curve) != n]:
        raise CasebackError(
            f"a curve of {odd[0]} values over {n} layers: pass what argument_function_document returned"
        )


ARGUMENT_FUNCTION = DocumentKind(
    "caseback.argument_function",
    1,
    "a document of a function",
    "argument_function_document",
    sections=("function", "how", "counts", "layers", "curves", "random", "best", "words", "provenance"),
    lengths=_lengths,
)


@checked
def argument_function_document(model: Model, added: xr.Dataset, function: str = "") -> dict[str, Any]:
    """What ``argument_function`` measured as plain data.

    Parameters
    ----------
    model
        The model.
    added
        What ``caseback.behaviors.argument_function`` gave for it.
    function
        What the function is called.

    Returns
    -------
    dict
        ``curves`` by layer: the answer's mean log probability with the ``function``'s vector and with that of
        ``copying``, and the shares of first choices that are ``answers`` and ``arguments``; ``random`` the least and
        the largest mean of random vectors, None where none was drawn; ``best`` the ``layer`` chosen on one half, the
        ``gain`` in nats on the other with its ``error``, the largest gain of the ``control``, the share of ``answers``
        there, and whether it is ``above``; ``words`` each query with what is said at that layer.

    Raises
    ------
    CasebackError
        For another dataset, or one of another model.

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.tasks.standard.shots import FUNCTIONS
    >>> model = cb.load("meadow")
    >>> added = cb.behaviors.argument_function(model, FUNCTIONS["language"], prompts=8, draws=2)
    >>> len(argument_function_document(model, added, "language")["curves"]["function"])
    4
    """
    expect_result(model, added, ("log_prob", "says", "log_prob_control"), "argument_function")
    plain = added["plain"].values
    gain = added["log_prob"].transpose("variant", "layer", "batch").values - plain
    random = added["log_prob_control"].transpose("draw", "layer", "batch").values - plain
    says = added["says"].sel(variant="function").transpose("layer", "batch").values
    judged = np.arange(len(plain)) >= len(plain) // 2
    layer = int(gain[0][:, ~judged].mean(-1).argmax())
    own = gain[0, layer, judged]
    control = max([float(gain[1, layer, judged].mean()), *random[:, layer][:, judged].mean(-1).tolist()])
    error = float(own.std(ddof=1) / np.sqrt(judged.sum()))
    means = random.mean(-1) + plain.mean()
    what = {0: "another word", 1: "the answer", 2: "the argument"}
    return ARGUMENT_FUNCTION.document(
        model_facts(model),
        function=function,
        how={name: added.attrs[name] for name in ("factor", "shots", "draws", "seed")},
        counts={
            **{"prompts": len(plain), "judged": int(judged.sum()), "plain": float(plain.mean())},
            **{name: float(added.attrs[name]) for name in ("shown", "copied")},
        },
        layers=added["layer"].values.tolist(),
        curves={
            **{name: (gain[i].mean(-1) + plain.mean()).tolist() for i, name in enumerate(CURVES[:2])},
            **{name: (says == k).mean(-1).tolist() for k, name in enumerate(CURVES[2:], 1)},
        },
        random={"low": means.min(0).tolist(), "high": means.max(0).tolist()} if len(means) else None,
        best={
            **{"layer": layer, "gain": float(own.mean()), "error": error, "control": control},
            "answers": float((says[layer, judged] == 1).mean()),
            "above": bool(own.mean() - ERRORS * error > max(control, 0.0)),
        },
        words=[
            {"argument": str(given), "answer": str(wanted), "says": what[int(first)], "gain": float(more)}
            for given, wanted, first, more in zip(
                added["argument"].values, added["answer"].values, says[layer], gain[0, layer], strict=True
            )
        ],
        provenance={
            **model.provenance(),
            **{name: str(added.attrs[name]) for name in ("technique", "entry", "citation")},
        },
    )
