"""From where on a story says something: one number for each kind of claim, the same for every model and prompt.

Shares are of the change of the logit difference between the prompt and its counterfactual: 1 is all of it.
"""

from __future__ import annotations

BAND = 2.0
"""A margin is above what prompts of another kind have if it is so many of their standard deviations over their mean."""
TURNED = 0.5
"""A counterfactual turns a margin round if the foil then leads by so much of it, and other single words must move it by
less than that."""
TOKEN = 0.25
"""A word matters if replacing it takes away so much, as a share of what the counterfactual takes away."""
HOP = 0.25
"""A place of the stream carries the answer if it alone brings back so much."""
PART = 0.1
"""A head or MLP carries the answer, or works against it, with so much under noising or denoising."""
WHOLE = 0.9
"""A part that alone takes away so much lets everything through, as the first MLP that makes a word of its token; it is
left out where parts are noised together, which it would decide by itself."""
DIRECT = 0.5
"""A part acts on the logits itself if so much of its noising is direct."""
REPAIR = 0.25
"""Later parts make up for a part if they replace so much of its direct effect."""
LOOKS = 0.2
"""A head looks at a token with so much of its attention."""
FAITHFUL = 0.8
"""A circuit keeps the behavior with so much recovered, and no more than as far on the other side of 1."""
SAME = 0.5
"""Of the parts of a story, how many must be among the largest elsewhere for it to hold; half of that is weak."""


def verdict(value: float, held: float) -> str:
    """``"held"`` from one number on, ``"weak"`` from half of it.

    Examples
    --------
    >>> [verdict(value, 0.5) for value in (0.6, 0.3, 0.1)]
    ['held', 'weak', 'failed']
    """
    return "held" if value >= held else "weak" if value >= held / 2 else "failed"
