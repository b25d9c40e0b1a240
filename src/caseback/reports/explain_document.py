"""The form of an explanation document, which the views rely on.

Every list that a view indexes has its length compared with the number of tokens, layers or heads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from caseback.errors import CasebackError
from caseback.model.arguments import checked
from caseback.reports.document import Document, DocumentKind

__all__ = ["EXPLANATION", "KIND", "VERSION", "check_explanation"]

KIND = "caseback.explanation"
VERSION = 3

_LENS_GRIDS = "top_text top_prob target_prob target_rank foil_prob foil_rank entropy kl".split()


@checked
def check_explanation(explanation: Document) -> None:
    """Refuse a document that the views cannot draw truthfully.

    Parameters
    ----------
    explanation
        The document of ``caseback.reports.explain.explain``, or one read back from JSON.

    Raises
    ------
    CasebackError
        If the kind or version is another one, a part is missing, a list has the wrong length, a rank is below 1 (ranks
        count from 1, the most probable token) or a number is not finite; the message names the place.

    Examples
    --------
    >>> check_explanation({"kind": "something else"})
    Traceback (most recent call last):
    caseback.errors.CasebackError: not an explanation document: ...
    """
    EXPLANATION.check(explanation)


def _check_lengths(explanation: Mapping[str, Any]) -> None:
    n = len(explanation["tokens"])
    if not n:
        raise CasebackError("explanation.tokens is empty; an explanation needs at least one token")
    if not 0 <= explanation["position"] < n:
        raise CasebackError(f"explanation.position is {explanation['position']}, expected 0 to {n - 1}")
    n_layers, n_heads = explanation["model"]["n_layers"], explanation["model"]["n_heads"]
    lens = explanation["lens"]
    for name in ("layers", "logit_diff", *_LENS_GRIDS):
        _expect(lens[name], n_layers + 1, f"lens.{name}", "one entry for the embedding and one per layer")
    for name in _LENS_GRIDS:
        for layer, row in enumerate(lens[name]):
            _expect(row, n, f"lens.{name}[{layer}]", "one entry per token")
    for name in ("target_rank", "foil_rank"):
        if min(min(row) for row in lens[name]) < 1:
            raise CasebackError(
                f"explanation.lens.{name} holds a rank below 1; ranks count from 1, the most probable token"
            )
    for index, method in enumerate(explanation["inputs"]["methods"]):
        _expect(method["scores"], n, f"inputs.methods[{index}].scores", "one entry per token")
    components = explanation["components"]
    for name in ("head", "mlp", "attn_bias"):
        _expect(components[name], n_layers, f"components.{name}", "one entry per layer")
    for layer, row in enumerate(components["head"]):
        _expect(row, n_heads, f"components.head[{layer}]", "one entry per head")
    for index, head in enumerate(explanation["heads"]):
        if head.get("pattern") is None:
            continue
        _expect(head["pattern"], n, f"heads[{index}].pattern", "one row per query token")
        for query, row in enumerate(head["pattern"]):
            _expect(row, n, f"heads[{index}].pattern[{query}]", "one entry per key token")
    if explanation["story"] is not None:
        _check_story(explanation["story"], n, n_layers)
    if explanation["patching"] is not None:
        _check_patching(explanation["patching"], n, n_layers, n_heads)


def _check_story(story: Mapping[str, Any], n: int, n_layers: int) -> None:
    if story["counterfactual"] is not None:
        _expect(story["counterfactual"]["tokens"], n, "story.counterfactual.tokens", "one entry per token")
    for name, row in (("hops", "pos"), ("parts", "at")):
        for index, item in enumerate(story[name]):
            if item[row] is not None and not 0 <= item[row] < n:
                raise CasebackError(f"explanation.story.{name}[{index}].{row} is {item[row]}, expected 0 to {n - 1}")
    for index, hop in enumerate(story["hops"]):
        if not 0 <= hop["first"] <= hop["last"] <= n_layers:
            raise CasebackError(f"explanation.story.hops[{index}] is from {hop['first']} to {hop['last']}")
    for index, part in enumerate(story["parts"]):
        for look in part["looks"]:
            if not 0 <= look["pos"] < n:
                raise CasebackError(f"explanation.story.parts[{index}] looks at {look['pos']}, expected 0 to {n - 1}")


def _check_patching(patching: Mapping[str, Any], n: int, n_layers: int, n_heads: int) -> None:
    _expect(patching["corrupt"], n, "patching.corrupt", "one entry per token")
    for index, shown in enumerate(patching["maps"]):
        rows = shown.get("layers", range(n_layers))
        _expect(shown["recovery"], len(rows), f"patching.maps[{index}].recovery", "one entry per layer measured")
        for layer, row in enumerate(shown["recovery"]):
            _expect(row, n, f"patching.maps[{index}].recovery[{layer}]", "one entry per token")
    _expect(patching["heads"], n_layers, "patching.heads", "one entry per layer")
    for layer, row in enumerate(patching["heads"]):
        _expect(row, n_heads, f"patching.heads[{layer}]", "one entry per head")


def _expect(values: Sequence[Any], length: int, place: str, meaning: str) -> None:
    if len(values) != length:
        raise CasebackError(f"explanation.{place} has {len(values)} entries, expected {length}: {meaning}")


EXPLANATION = DocumentKind(
    KIND,
    VERSION,
    "an explanation document",
    "explain",
    sections=(
        *("prompt", "tokens", "position", "target", "foil", "metric", "predictions", "lens", "inputs", "components"),
        *("heads", "ablations", "story", "patching", "checks", "provenance"),
    ),
    lengths=_check_lengths,
)
