"""The heads or neurons that `caseback lens` is asked for, by name or by number."""

from __future__ import annotations

from caseback.cli.options import NamedUnits
from caseback.errors import CasebackError, OutOfRange

OWN_SITE = {"head": "head_out", "neuron": "mlp_post"}
_LETTERS = {"head": "H", "neuron": "N"}


def units_at(kind: str, site: str, named: NamedUnits) -> tuple[list[tuple[int | None, int]], str]:
    """Layer (None for every one) and number of what is asked for, and the site where it is read."""
    if not named.head and not named.neuron:
        if site == "mlp_post":
            raise CasebackError("--site mlp_post: name some neurons (--neuron), all of them are too many to read")
        return [], site
    if named.head and named.neuron:
        raise CasebackError("--head and --neuron: a grid is of heads or of neurons, give one of the two")
    what = "head" if named.head else "neuron"
    if kind != "logit":
        raise CasebackError(f"--{what}: a {kind} lens reads the whole stream; {what}s are for --kind logit")
    if site not in ("resid_post", OWN_SITE[what]):
        raise CasebackError(f"--{what} with --site {site}: it is read at {OWN_SITE[what]}, leave out --site")
    return [_unit(what, name) for name in named.head or named.neuron or ()], OWN_SITE[what]


def _unit(what: str, text: str) -> tuple[int | None, int]:
    from caseback.model.graph.names import parse_name

    if text.strip().isdecimal():
        return None, int(text)
    try:
        name = parse_name(text.strip())
    except CasebackError:
        name = None
    if name is None or name.kind != what or name.pos:
        raise CasebackError(f"--{what} {text!r}: expected L3{_LETTERS[what]}2, or 2 for that {what} of every layer")
    return name.layer, name.index


def rows_of(units: list[tuple[int | None, int]], site: str, n_layers: int) -> list[str]:
    """The names of the rows that show them, by layer.

    Examples
    --------
    >>> rows_of([(None, 2), (1, 0)], "head_out", 2)
    ['L0H2', 'L1H0', 'L1H2']
    """
    wrong = [layer for layer, _ in units if layer is not None and layer >= n_layers]
    if wrong:
        raise OutOfRange(f"layer {wrong[0]}: the model has {n_layers}, 0 to {n_layers - 1}")
    from caseback.model.graph.names import Name

    kind = "neuron" if site == OWN_SITE["neuron"] else "head"
    each = {(at, i) for layer, i in units for at in (range(n_layers) if layer is None else [layer])}
    return [str(Name(kind, layer, i)) for layer, i in sorted(each)]
