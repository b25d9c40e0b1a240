"""What the model says next, what each layer would say, and what changes of its parts do to that, as plain data.

The quick answer of the explorer: one run under the changes, read by the logit lens, and one without them where there
are any. Beside each likely token stands how likely it was before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import xarray as xr

from caseback.decode.vocabulary.lenses.logit_lens import STREAM, lens_of_run
from caseback.errors import CasebackError, TokensError
from caseback.model.anatomy.coerce import in_float64
from caseback.model.arguments import checked
from caseback.model.running.edits import Edit
from caseback.model.running.model import Model
from caseback.model.running.tokens import PromptsLike
from caseback.reports.document import DocumentKind
from caseback.reports.model_facts import model_facts
from caseback.reports.tables.likeliest import likeliest
from caseback.reports.tokens_text import visible

__all__ = ["PREDICTION", "prediction"]


@checked
def prediction(
    model: Model, prompt: PromptsLike, *, edits: Edit | Sequence[Edit] = (), count: int = 10, k: int = 3
) -> dict[str, Any]:
    """What the model says after a prompt, under some edits, beside what it says without them.

    Parameters
    ----------
    model
        The model.
    prompt
        One prompt: text, a list of token ids, or ``Tokens``.
    edits
        Interventions under which it runs; none by default.
    count
        How many of the likeliest tokens are listed.
    k
        How many tokens the lens keeps at each place.

    Returns
    -------
    dict
        The document: ``tokens``, ``predictions`` (with ``before``, the probability without the edits), and ``lens``:
        ``layers``, ``top_text`` and ``top_prob``, (layer, pos, k).

    Raises
    ------
    TokensError
        For several prompts, or one longer than the context.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> one = prediction(model, "Mary and John went to the", edits=cb.Zero("mlp_out", layer=3), count=2)
    >>> [(row["text"], row["prob"] != row["before"]) for row in one["predictions"]]
    [(' village', True), (' hospital', True)]
    """
    tokens = model.tokens(prompt)
    if len(tokens) != 1:
        raise TokensError(f"{len(tokens)} prompts given: prediction takes one at a time")
    last = int(tokens.column(-1)[0])
    # one pass for both: its logits are the model's, and the lens reads the stream that it recorded
    run = model.run(tokens, read=STREAM, edits=edits)
    final = run.logits[0, last].detach()
    rows = likeliest(model, final, count)
    plain = model.run(tokens).logits[0, last].detach() if edits else final
    before = in_float64(plain).softmax(-1)[[row["id"] for row in rows]].tolist()
    lens = lens_of_run(model, run, k=k).isel(batch=0)
    return PREDICTION.document(
        model_facts(model),
        tokens=[
            {"id": i, "text": text, "visible": visible(text)}
            for i, text in zip(tokens.ids[0].tolist(), tokens.text[0], strict=True)
        ],
        predictions=[
            {**row, "visible": visible(row["text"]), "before": p} for row, p in zip(rows, before, strict=True)
        ],
        lens=_lens(lens),
    )


def _lens(lens: xr.Dataset) -> dict[str, Any]:
    texts = [[[visible(text) for text in place] for place in row] for row in lens.top_text.values.tolist()]
    return {"layers": lens.layer.values.tolist(), "top_text": texts, "top_prob": lens.top_prob.values.tolist()}


def _lengths(document: Mapping[str, Any]) -> None:
    lens, shape = document["lens"], (len(document["lens"]["layers"]), len(document["tokens"]))
    for name in ("top_text", "top_prob"):
        if len(lens[name]) != shape[0] or any(len(row) != shape[1] for row in lens[name]):
            raise CasebackError(f"prediction: lens.{name} does not fit its {shape[0]} layers and {shape[1]} tokens")


PREDICTION = DocumentKind(
    "caseback.prediction",
    1,
    "a document of a prediction",
    "prediction",
    sections=("tokens", "predictions", "lens"),
    lengths=_lengths,
)
