"""Names of components: the one place that writes and reads them.

    embed   pos_embed   logits      the ends of the model
    L3H2    L3KV0                   a head; keys and values that several heads share
    MLP 3                           an MLP
    L3N17   L3F1042                 a neuron of it; a feature of a dictionary there
    L2H0@end                        any of them at one position, by number or by a task's name for it

Results, circuits, edits, pages and commands use these. ``MLP 3 N17``, which older saved circuits have, is read too.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from caseback.errors import CasebackError

LETTERS = {"head": "H", "kv_head": "KV", "neuron": "N", "feature": "F"}
_KINDS = {letter: kind for kind, letter in LETTERS.items()}
_NAME = re.compile(
    r"(?P<end>embed|pos_embed|logits)|L(?P<layer>\d+)(?P<letter>H|KV|N|F)(?P<index>\d+)|"
    r"MLP (?P<mlp>\d+)( (?P<unit>[NF])(?P<number>\d+))?"
)


class Name(NamedTuple):
    """A component's kind, its layer and its number there (-1 where it has none), and a position, empty for all.

    Examples
    --------
    >>> str(Name("head", 3, 2)), str(Name("mlp", 4, pos="end")), str(Name("neuron", 3, 17))
    ('L3H2', 'MLP 4@end', 'L3N17')
    """

    kind: str
    layer: int = -1
    index: int = -1
    pos: str = ""

    def __str__(self) -> str:
        if self.kind in LETTERS:
            name = f"L{self.layer}{LETTERS[self.kind]}{self.index}"
        else:
            name = f"MLP {self.layer}" if self.kind == "mlp" else self.kind
        return f"{name}@{self.pos}" if self.pos else name


def head_name(layer: int, head: int) -> str:
    """A head's name.

    Examples
    --------
    >>> head_name(3, 2)
    'L3H2'
    """
    return str(Name("head", layer, head))


def parse_name(text: str) -> Name:
    """Read what ``str`` of a ``Name`` writes.

    Raises
    ------
    CasebackError
        For text that names no component.

    Examples
    --------
    >>> parse_name("L2H0@end")
    Name(kind='head', layer=2, index=0, pos='end')
    >>> parse_name("MLP 4 N17") == parse_name("L4N17")
    True
    """
    name, _, pos = text.partition("@")
    match = _NAME.fullmatch(name.strip())
    if match is None:
        raise CasebackError(
            f"{text!r} names no component: expected embed, pos_embed, logits, a head such as L3H2, an MLP such as "
            "'MLP 4', a neuron such as L4N17 or a feature such as L4F1042, with '@position' after it where there is one"
        )
    if match["end"]:
        return Name(match["end"], pos=pos)
    if match["layer"]:
        return Name(_KINDS[match["letter"]], int(match["layer"]), int(match["index"]), pos)
    if match["unit"]:
        return Name(_KINDS[match["unit"]], int(match["mlp"]), int(match["number"]), pos)
    return Name("mlp", int(match["mlp"]), pos=pos)
