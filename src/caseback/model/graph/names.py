"""Names of components: the one place that writes and reads them.

    embed   pos_embed   logits      the ends of the model
    bias                            all that biases add
    logits[262]                     the logit of one token
    L3H2    L3KV0                   a head; keys and values that several heads share
    MLP 3                           an MLP
    L3X5                            an expert of a mixture
    L3N17   L3F1042                 a neuron of it; a feature of a dictionary that writes where it does
    L3F1042:attn_out                a feature of a dictionary that writes at another site of the layer
    L3E     L3E:resid_post          what such a dictionary leaves of the site that it writes: its error
    L2H0@end                        any of them at one position, by number or by a task's name for it

Results, circuits, edits, pages and commands use these. ``MLP 3 N17``, which older saved circuits have, is read too.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from caseback.errors import CasebackError

LETTERS = {"head": "H", "kv_head": "KV", "neuron": "N", "feature": "F", "expert": "X"}
WHOLE = {"error": "E"}
"""Kinds of which there is one at a site of a layer."""
WRITTEN_AT = ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")
"""The sites that a feature or an error may be written at, in the order of computation."""
_KINDS = {letter: kind for kind, letter in (LETTERS | WHOLE).items()}
_NAME = re.compile(
    r"(?P<end>embed|pos_embed|bias|logits)|logits\[(?P<token>\d+)\]|"
    r"L(?P<layer>\d+)(?:(?P<letter>H|KV|N|F|X)(?P<index>\d+)|(?P<whole>E))(?::(?P<site>\w+))?|"
    r"MLP (?P<mlp>\d+)( (?P<unit>[NF])(?P<number>\d+))?"
)


class Name(NamedTuple):
    """A component's kind, its layer and its number there (-1 where it has none), and a position, empty for all.

    ``site`` is where a feature or an error is written, empty for the MLP's output. A token's logit has the
    token's id for its number.

    Examples
    --------
    >>> str(Name("head", 3, 2)), str(Name("mlp", 4, pos="end")), str(Name("neuron", 3, 17))
    ('L3H2', 'MLP 4@end', 'L3N17')
    >>> str(Name("feature", 3, 1042, "5", "attn_out")), str(Name("error", 3)), str(Name("logits", index=262))
    ('L3F1042:attn_out@5', 'L3E', 'logits[262]')
    """

    kind: str
    layer: int = -1
    index: int = -1
    pos: str = ""
    site: str = ""

    def __str__(self) -> str:
        if self.kind in LETTERS:
            name = f"L{self.layer}{LETTERS[self.kind]}{self.index}"
        elif self.kind in WHOLE:
            name = f"L{self.layer}{WHOLE[self.kind]}"
        elif self.kind == "logits" and self.index >= 0:
            name = f"logits[{self.index}]"
        else:
            name = f"MLP {self.layer}" if self.kind == "mlp" else self.kind
        name = f"{name}:{self.site}" if self.site else name
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
    Name(kind='head', layer=2, index=0, pos='end', site='')
    >>> parse_name("MLP 4 N17") == parse_name("L4N17")
    True
    """
    name, _, pos = text.partition("@")
    match = _NAME.fullmatch(name.strip())
    if match is None:
        raise CasebackError(
            f"{text!r} names no component: expected embed, pos_embed, logits, a head such as L3H2, an MLP such as "
            "'MLP 4', a neuron such as L4N17, a feature such as L4F1042 or L4F1042:attn_out, an error such as L4E or a "
            "token's logit such as logits[262], with '@position' after it where there is one"
        )
    if match["end"]:
        return Name(match["end"], pos=pos)
    if match["token"]:
        return Name("logits", index=int(match["token"]), pos=pos)
    if match["layer"]:
        kind, site = _KINDS[match["letter"] or match["whole"]], match["site"] or ""
        if site and (kind not in ("feature", *WHOLE) or site not in WRITTEN_AT):
            raise CasebackError(
                f"{text!r} names no component: only features and errors are at a site, one of {', '.join(WRITTEN_AT)}"
            )
        site = "" if site == "mlp_out" else site
        return Name(kind, int(match["layer"]), int(match["index"] or -1), pos, site)
    if match["unit"]:
        return Name(_KINDS[match["unit"]], int(match["mlp"]), int(match["number"]), pos)
    return Name("mlp", int(match["mlp"]), pos=pos)
