"""One attention layer as one step of gradient descent on the examples of its prompt (PRIMER 5.4.14).

    tokens e_i = (x_i, y_i), the query (q, 0);    e_j <- e_j + P V E E^T K^T Q e_j            linear self-attention
    K = [I 0],  Q = [G 0],  P V = -rate/n [[curvature/rate I, 0], [0, 1]]                      (von Oswald et al. 2023)
    =>  y_j <- y_j - rate/n sum_i y_i x_i . G x_j,      the residuals after one step w = rate G X^T y / n on
        L(w) = 1/(2n) sum_i (w . x_i - y_i)^2;  the query's y becomes minus its prediction, whose layers are steps

G = I is plain descent, another matrix is preconditioned, the inverse of X^T X / n is least squares in one layer. With a
``curvature`` each layer also replaces x by (I - curvature X^T X / n) x, so that later layers descend a whiter loss.

Softmax attention does the same in the limit. Beside a sink of score c, whose value is 0, a head's weights are
exp(s - c) / (1 + sum exp(s - c)), and the difference of two heads that score s = +small x . q and -small x . q is

    exp(-c) 2 small x . q  (1 + O(small^2) + O(n exp(-c))):        linear attention, scaled back by the output weights
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from caseback.errors import CasebackError
from caseback.model.anatomy.sites import Site
from caseback.model.circuit import Circuit, Node
from caseback.organisms.compiled.draft import ALWAYS, Draft
from caseback.organisms.compiled.organism import BOS, Organism, Variable

SPACING = 0.25
"""Of the outputs; a normal distribution of this width over answers as far apart has its mean within 3e-9 of its own."""


def linear_attention(
    inputs: Float[Tensor, "batch shot feature"],
    outputs: Float[Tensor, "batch shot"],
    queries: Float[Tensor, "batch feature"],
    rates: Sequence[float],
    *,
    preconditioner: Float[Tensor, "*batch feature feature"] | None = None,
    curvature: float = 0.0,
) -> Float[Tensor, "layer batch"]:
    """What layers of linear self-attention with the weights above predict for the queries.

    Every token sees all examples, as in the paper, also those behind it; under a causal mask the layers after the
    first descend something else.

    Parameters
    ----------
    inputs, outputs, queries
        The examples, and what is asked.
    rates
        Of each layer's step.
    preconditioner
        G, one or one for each prompt; by default the identity.
    curvature
        What each layer takes off the inputs, in units of X^T X / n.

    Returns
    -------
    Tensor
        The prediction after each layer.

    Examples
    --------
    >>> x, y, q = torch.ones(1, 3, 1), torch.ones(1, 3), torch.ones(1, 1)
    >>> linear_attention(x, y, q, [0.5, 0.5])[:, 0].tolist()
    [0.5, 0.75]
    """
    n, features = inputs.shape[1:]
    e = torch.cat(
        [
            torch.cat([inputs, queries[:, None]], 1),
            torch.cat([outputs, outputs.new_zeros(len(outputs), 1)], 1)[..., None],
        ],
        -1,
    )
    x_part = torch.eye(features + 1, dtype=e.dtype)[:, :features]
    g = torch.eye(features, dtype=e.dtype) if preconditioner is None else preconditioner
    predictions = []
    for rate in rates:
        write = torch.diag(torch.tensor([-curvature / n] * features + [-rate / n], dtype=e.dtype))
        scores = (e @ x_part @ g.mT) @ (e[:, :n] @ x_part).mT
        e = e + scores @ e[:, :n] @ write
        predictions.append(-e[:, -1, -1])
    return torch.stack(predictions)


def gradient_descent(*, rate: float = 0.1, small: float = 1e-2, sink: float = 12.0, max_length: int = 16) -> Organism:
    """A softmax model whose one layer takes one gradient step on the examples of its prompt.

    A prompt is words of examples, ``a:y`` with the number of an input and an output, and a query, ``a:?``. Its
    prediction is a number along ``"read"``, and the answers' probabilities are a normal distribution around it.

    Parameters
    ----------
    rate
        Of the step on the *sum* of squared errors over 2, which needs no count of the examples.
    small, sink
        The scores' scale and the sink's score: errors are about ``small`` squared and the count times exp(-``sink``).
    max_length
        The longest prompt in words.

    Returns
    -------
    Organism
        Its variable ``"read"`` is the prediction.

    Raises
    ------
    CasebackError
        For numbers that are not above 0.

    References
    ----------
    von Oswald et al. 2023, "Transformers learn in-context by gradient descent".

    Examples
    --------
    Input 4 is (0, 1); two examples of output 1 and a rate of 0.25 give 0.5:

    >>> gradient_descent(rate=0.25).predict([["4:1", "4:1", "4:?"]])[0][-1]
    '0.5'
    """
    if not (min(rate, small, sink) > 0 and max_length >= 1):
        raise CasebackError(f"rate {rate}, small {small}, sink {sink}, {max_length} words: expected numbers above 0")
    x = input_table()
    outputs, answers = np.arange(-8, 9) * SPACING, np.arange(-16, 17) * SPACING
    shown = [f"{a}:{y:g}" for a in range(len(x)) for y in outputs]
    asked, names = [f"{a}:?" for a in range(len(x))], [f"{v:g}" for v in answers]
    draft = Draft([*shown, *asked, *names], max_length, {"x": 2, "y": 1, "sink": 1, "one": 1, "read": 1})
    draft.embed("x", shown, x.repeat_interleave(len(outputs), 0))
    draft.embed("y", shown, torch.from_numpy(outputs).float().repeat(len(x))[:, None])
    draft.embed("x", asked, x)
    draft.embed("sink", [BOS])
    draft.embed("one", [*shown, *asked], torch.ones(len(shown) + len(asked), 1))
    back = rate * math.exp(sink) / (2 * small)
    for sign in (1, -1):
        terms = [(draft["x"], draft["x"], sign * small), (ALWAYS, draft["sink"], sink)]
        draft.head(0, terms, [(draft["y"], draft.into("read", sign * back))])
    v = torch.from_numpy(answers).float()[:, None]
    draft.unembed("read", names, v / SPACING**2)
    draft.unembed("one", names, -(v**2) / (2 * SPACING**2))
    draft.unembed("one", [BOS, *shown, *asked], torch.full((1 + len(shown) + len(asked), 1), -1e3))

    def predicted(prompt: Sequence[str]) -> list[str | None]:
        last = [word.split(":") for word in prompt]
        if last[-1][1] != "?":
            return [None] * len(prompt)
        rows = [(x[int(a)].double(), float(y)) for a, y in last[:-1] if y != "?"]
        w = rate * sum((y * row for row, y in rows), torch.zeros(2, dtype=torch.float64))
        value = float(w @ x[int(last[-1][0])].double())
        return [None] * (len(prompt) - 1) + [names[int(np.abs(answers - value).argmin())]]

    heads = ("L0H0", "L0H1")
    edges = [f"embed -> {head}.{of}" for head in heads for of in "qkv"] + [f"{head} -> logits" for head in heads]
    roles: dict[str | Node, str] = {"L0H0": "adds y x . q", "L0H1": "takes off what is not linear in x . q"}
    return Organism(
        name="gradient_descent",
        model=draft.model(),
        function=predicted,
        circuit=Circuit.of(*edges, "embed -> logits", roles=roles, rate=rate),
        variables=(Variable("read", Site("resid_post", 0), draft.basis("read")),),
        inputs=(*shown, *asked),
        max_length=max_length,
        about="One layer of two softmax heads takes one step of gradient descent on its prompt's examples.",
    )


def input_table() -> Float[Tensor, "input feature"]:
    """The inputs by their number: the eight points around 0 of a square grid.

    Examples
    --------
    >>> input_table()[4].tolist()
    [0.0, 1.0]
    """
    return torch.tensor([(a, b) for a in (-1.0, 0.0, 1.0) for b in (-1.0, 0.0, 1.0) if (a, b) != (0, 0)])
