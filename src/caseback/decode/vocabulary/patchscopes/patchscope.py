"""Patchscopes: a state of one run, written into another run that puts it into words (PRIMER 4.3.8).

    h = source's stream at (row, position)     target's stream at (row*, position*) <- f(h)     read what target says

Source and target may be different prompts, places, depths and models; f is the identity, an affine map or any function.
The state is written while the target prompt is read and at no later step; what is generated then follows from it.
Depths are rows, as of the lenses: r is the stream before layer r (the paper's layer l - 1 = r) and ``n_layers`` the
end. That one is the stream *before* the final norm, on both sides, so that no state is normed twice.

Lenses are patchscopes whose target is the end of the last position, where nothing but unembedding is left: the logit
lens with f the identity, the tuned lens and translators with their maps, the linear future lens with its own, the
future lens with a soft prompt with that prompt as target.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float, Int
from torch import Tensor

from caseback.decode.vocabulary.lenses.lens import Lens, row_name, stream_at
from caseback.decode.vocabulary.lenses.lens_statistics import expect_sizes, texts_of
from caseback.decode.vocabulary.patchscopes.patchscope_places import Cells, expect_room, targets_of
from caseback.errors import CasebackError, EditError, OutOfRange, TargetError
from caseback.jobs.budget import limit
from caseback.jobs.progress import progress_bar
from caseback.model.anatomy.classes import expect_tokens_out
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.edits import Edit, Where
from caseback.model.running.metrics import target_ids
from caseback.model.running.model import Model
from caseback.model.running.run import Run, execute
from caseback.model.running.tokens import PromptsLike, Tokens
from caseback.model.running.verify import unembed
from caseback.model.sweeping.room import tokens_per_pass

Map = Lens | Tensor | Callable[[Tensor], Tensor]


@technique(
    role="lens",
    entry=("4.3.8", "4.3.7"),
    citation="Ghandeharioun et al. 2024, Chen et al. 2024",
    cost="one forward + rows x positions target forwards, in batches",
)
def patchscope(
    model: Model,
    source: PromptsLike,
    target: Any = None,
    *,
    rows: Sequence[int] | int | None = None,
    pos: Sequence[int] | int | None = None,
    target_row: int | None = None,
    target_pos: Sequence[int] | int | None = None,
    mapping: Map | Mapping[int, Map] | None = None,
    target_model: Model | None = None,
    answers: Any = None,
    max_new_tokens: int = 0,
    k: int = 5,
    edits: Edit | Sequence[Edit] = (),
    target_edits: Edit | Sequence[Edit] = (),
    token_budget: int | None = None,
    max_logits: int | None = None,
    progress: bool = False,
    **options: Any,
) -> xr.Dataset:
    """Write states of one run into another, and read what it predicts and says; a grid of depths by positions.

    Parameters
    ----------
    model
        The model. Its states are read.
    source
        Its prompts: ``Tokens``, or anything that ``Model.tokens`` takes.
    target
        Where they are written: a ``TargetPrompt`` (``token_identity()``, ``description()``, ``selfie()``), a text or
        ids, or one of these per source prompt; by default the source prompts themselves.
    rows
        Depths that are read; all of them by default, the embedding and the end included.
    pos
        Positions that are read, negative ones from a prompt's end; all by default. With an int there is no ``pos``.
    target_row
        The depth that is written; by default the one that was read.
    target_pos
        The position that is written, or several that get the same state. By default the placeholder of a
        ``TargetPrompt``, the source's own position where the target is the source, and the last one otherwise.
    mapping
        f: a ``Lens`` (the map of the row that is read), a matrix for ``h @ W``, a function from (state, d_model) to
        (state, d_model of the target), or one of these per row; by default the identity.
    target_model
        The model that is written into; ``model`` by default.
    answers
        Tokens of the target model that should be said: one, one per prompt, or ids (batch, pos). By default what the
        source model itself predicts at the place, where both models have as many tokens; otherwise there are none.
    max_new_tokens
        How many tokens to generate under the written state; none by default.
    k
        How many of the most probable tokens to keep.
    edits, target_edits
        Interventions under which the source and the target run; positions of the latter are the target prompt's.
    token_budget
        Most tokens of target prompts in one pass; by default a sweep's.
    max_logits
        The most logits formed at once; 2**24 are 64 MB in float32.
    progress
        Show a progress bar.
    **options
        For ``generate``, such as ``do_sample``.

    Returns
    -------
    xr.Dataset
        ``top_id``, ``top_text``, ``top_prob`` (layer, batch, pos, k) of the target's prediction at its end, most
        probable first; ``entropy`` (layer, batch, pos) in nats; with answers ``surprisal`` (minus the answer's log
        probability), ``rank`` (1 is the most probable) and ``hit`` (whether it is), and ``precision_at_1``
        (layer, pos), the mean of the hits over prompts. With ``max_new_tokens``, ``said`` is the continuation as
        text. Places that a shorter prompt lacks are NaN, 0 and empty.

    Raises
    ------
    CasebackError
        Where widths differ and no mapping joins them, a mapping gives another shape, or no token of the target
        prompt is the placeholder.
    OutOfRange
        For depths or positions that are not there, and where a prompt with what is generated after it is longer than
        the model's context.
    TokensError
        For a text that is longer than the context by itself.
    TargetError
        For answers that are not tokens, or not as many as prompts.

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.decode.vocabulary import token_identity
    >>> model = cb.load("meadow")
    >>> grid = patchscope(model, "Mary went to the store", token_identity(), rows=[0, 2], max_new_tokens=2)
    >>> grid["surprisal"].dims, grid["said"].shape == grid["hit"].shape
    (('layer', 'batch', 'pos'), True)
    """
    onto = model if target_model is None else target_model
    max_logits = limit("lens_logits", given=max_logits)
    expect_sizes(k, max_logits)
    if max_new_tokens < 0:
        raise OutOfRange(f"max_new_tokens={max_new_tokens}: expected at least 0")
    expect_tokens_out(onto.anatomy, "putting a state into words")
    tokens = model.tokens(source)
    depths = _rows(rows, model.n_layers, "rows")
    _rows([*depths] if target_row is None else target_row, onto.n_layers, "target_row" if target_row else "rows")
    cells = Cells(tokens, pos)
    prompts, written = targets_of(onto, tokens, target, target_pos, cells)
    expect_room(model, tokens, 0, "source")
    expect_room(onto, prompts, max_new_tokens, "target")
    wanted = _answers(onto, tokens, answers, cells)
    # the end too, where the source's own predictions are what is looked for
    own = answers is None and model.d_vocab == onto.d_vocab
    reads = [stream_at(model, row) for row in (*depths, *([model.n_layers] * own))]
    run = execute(model.anatomy, tokens, read=list(dict.fromkeys(reads)), edits=edits, logits=False)
    states = [_mapped(cells.of(run, stream_at(model, row)), row, mapping, onto) for row in depths]
    wanted = _own_choices(model, run, cells, max_logits) if own else wanted
    n, budget = len(cells.example), tokens_per_pass(onto.anatomy, prompts, token_budget or None)
    # cell of the grid -> row, place; one target prompt each
    order = [(i, place) for i in range(len(depths)) for place in range(n)]
    step = max(1, min(budget // (prompts.shape[1] + max_new_tokens), max_logits // onto.d_vocab))
    more = [target_edits] if isinstance(target_edits, Edit) else target_edits
    if not isinstance(more, list | tuple) or not all(isinstance(edit, Edit) for edit in more):
        raise EditError(f"target_edits={more!r}: expected an edit such as Zero('z', layer=0), or several")
    readings: dict[str, list[Any]] = {}
    for start in progress_bar(range(0, len(order), step), show=progress, unit="batch"):
        some = order[start : start + step]
        place = torch.tensor([p for _, p in some])
        onto_rows = torch.tensor([depths[i] if target_row is None else target_row for i, _ in some])
        here = prompts[place]
        value = torch.stack([states[i][p] for i, p in some])
        whole = [*more, *_writes(onto, value, onto_rows, written[place])]
        logits = at_least_float32(_predictions(onto, here, whole))
        for name, statistic in _summed_up(logits, None if wanted is None else wanted[place], min(k, onto.d_vocab)):
            readings.setdefault(name, []).append(statistic.cpu())
        if max_new_tokens:
            continued = onto.generate(here, edits=whole, max_new_tokens=max_new_tokens, **options)
            per = len(continued) // len(here)
            kept_text = continued.text[::per]
            readings.setdefault("said", []).extend(
                "".join(text[len(own) :]) for text, own in zip(kept_text, here.text, strict=True)
            )
    return _labelled(model, onto, depths, cells, readings, wanted, target_row, k)


@dataclass(frozen=True, eq=False)
class _Write(Edit):
    """Put a state at the address of some prompts of the batch."""

    value: Float[Tensor, "batch d_model"]
    mine: Bool[Tensor, " batch"]
    tied: ClassVar[bool] = True

    def new(self, old: Tensor, where: Where) -> Tensor:
        at = where.rows.example
        mine = self.mine[at].to(old.device)[:, None]
        return torch.where(mine, self.value[at.to(self.value.device)].to(old), old)


def _writes(
    onto: Model, value: Float[Tensor, "batch d_model"], rows: Int[Tensor, " batch"], at: Int[Tensor, "batch place"]
) -> Iterator[Edit]:
    """The edits that write each prompt's state at its own depth; a prompt's places get the same state."""
    for row in rows.unique().tolist():
        site = stream_at(onto, row)
        for place in at.unbind(-1):
            yield _Write(site.name, value, rows == row, layer=site.layer, pos=place)


def _rows(rows: Sequence[int] | int | None, n_layers: int, what: str) -> list[int]:
    depths = list(range(n_layers + 1)) if rows is None else [rows] if isinstance(rows, int) else list(rows)
    if not depths or not all(0 <= r <= n_layers for r in depths):
        raise OutOfRange(f"{what} {depths}: expected some of 0 (the embedding) to {n_layers} (the end)")
    return depths


def _mapped(
    h: Float[Tensor, "place d_model"], row: int, mapping: Map | Mapping[int, Map] | None, onto: Model
) -> Float[Tensor, "place d_model"]:
    """f(h), on the target's device."""
    if isinstance(mapping, Mapping):
        if row not in mapping:
            raise OutOfRange(f"there is no mapping for row {row}: there are some for {', '.join(map(str, mapping))}")
        own: Map | None = mapping[row]
    else:
        own = mapping
    if own is None:
        if h.shape[-1] != onto.d_model:
            raise CasebackError(
                f"the source's states have {h.shape[-1]} numbers and {onto.name!r} takes {onto.d_model}: give a "
                "mapping between them (fit_mapping fits one)"
            )
        return h.to(onto.device)
    if isinstance(own, Lens):
        # the end needs no map unless the lens looks ahead
        mapped = h if row == own.n_layers and row not in own.rows else own.transport(row, h)
    elif isinstance(own, Tensor):
        if own.ndim != 2 or own.shape[0] != h.shape[-1]:
            raise CasebackError(f"a mapping of shape {tuple(own.shape)} for states of {h.shape[-1]}: expected h @ W")
        mapped = h @ own.to(h)
    else:
        mapped = own(h)
    if not isinstance(mapped, Tensor) or mapped.shape != (len(h), onto.d_model):
        got = tuple(mapped.shape) if isinstance(mapped, Tensor) else type(mapped).__name__
        raise CasebackError(f"the mapping gave {got}, expected {(len(h), onto.d_model)} for {onto.name!r}")
    return mapped.detach().to(onto.device)


def _own_choices(model: Model, run: Run, cells: Cells, max_logits: int) -> Int[Tensor, " place"]:
    """What the source model itself predicts at each place."""
    end, step = cells.of(run, stream_at(model, model.n_layers)), max(1, max_logits // model.d_vocab)
    with torch.no_grad():
        return torch.cat([unembed(model.anatomy, some).argmax(-1) for some in end.split(step)]).cpu()


def _answers(onto: Model, tokens: Tokens, answers: Any, cells: Cells) -> Int[Tensor, " place"] | None:
    """The token that should be said at each place."""
    if answers is None:
        return None
    given = torch.as_tensor(answers) if isinstance(answers, Tensor | np.ndarray) else answers
    if isinstance(given, Tensor) and given.ndim == 2:
        if tuple(given.shape) != cells.shape:
            raise TargetError(f"answers of shape {tuple(given.shape)}: expected {cells.shape}, one per place")
        flat = given[cells.example, cells.slot]
        if not bool(((flat >= 0) & (flat < onto.d_vocab)).all()):
            raise TargetError(f"answers hold an id outside the vocabulary: expected 0 to {onto.d_vocab - 1}")
        return flat.long()
    one = int(given) if isinstance(given, Tensor) and given.ndim == 0 else given
    return target_ids(one, tokens, onto.tokenizer, onto.d_vocab, "answer").cpu()[cells.example]


def _predictions(onto: Model, prompts: Tokens, edits: Sequence[Edit]) -> Float[Tensor, "batch vocab"]:
    """The target's logits at its prompts' ends."""
    at, column = torch.arange(len(prompts)), prompts.column(-1).cpu()
    if any(edit.site.startswith(("final_norm", "logits")) for edit in edits):
        logits = execute(onto.anatomy, prompts, edits=edits).logits
        return logits[at.to(logits.device), column.to(logits.device)].detach()
    end = stream_at(onto, onto.n_layers)
    stream = execute(onto.anatomy, prompts, read=[end], edits=edits, logits=False)[end.name, end.layer]
    with torch.no_grad():
        return unembed(onto.anatomy, stream[at.to(stream.device), column.to(stream.device)])


def _summed_up(
    logits: Float[Tensor, "batch vocab"], wanted: Int[Tensor, " batch"] | None, k: int
) -> Iterator[tuple[str, Tensor]]:
    log_p = logits.log_softmax(-1)
    top = log_p.topk(k, -1)
    yield "top_id", top.indices
    yield "top_prob", top.values.exp()
    yield "entropy", torch.special.entr(log_p.exp()).sum(-1)
    if wanted is not None:
        own = log_p.gather(-1, wanted.to(log_p.device)[:, None])
        rank = (log_p > own).sum(-1) + 1
        yield "surprisal", -own[:, 0]
        yield "rank", rank
        yield "hit", (top.indices[:, 0] == wanted.to(log_p.device)).to(log_p.dtype)


def _labelled(
    model: Model,
    onto: Model,
    rows: Sequence[int],
    cells: Cells,
    readings: dict[str, list[Any]],
    wanted: Int[Tensor, " place"] | None,
    target_row: int | None,
    k: int,
) -> xr.Dataset:
    lead = ["layer", "batch"] if cells.single else ["layer", "batch", "pos"]
    shape = (len(rows), len(cells.example))
    values = {
        name: (np.array(pieces, dtype=str) if name == "said" else torch.cat(pieces).numpy())
        for name, pieces in readings.items()
    }
    values = {name: value.reshape(*shape, *value.shape[1:]) for name, value in values.items()}
    values["top_text"] = texts_of(onto, values["top_id"])
    coords: dict[str, Any] = {
        "layer": [row_name(row) for row in rows],
        "token": (tuple(lead[1:]), cells.put(np.array([cells.text], dtype=str))[0]),
    }
    if not cells.single:
        coords["pos"] = cells.labels
    if wanted is not None:
        texts = texts_of(onto, wanted.numpy())
        coords["answer"] = (tuple(lead[1:]), cells.put(texts[None])[0])
    attrs = {"k": k, "target_model": onto.name, "target_row": target_row}
    variables = {}
    for name, value in values.items():
        dims = [*lead, "k"] if name.startswith("top") else lead
        variables[name] = labelled(
            cells.put(value), dims, coords, name=name, technique=patchscope, model=model, **attrs
        )
    if "hit" in variables:
        variables["precision_at_1"] = variables["hit"].mean("batch")
    return xr.Dataset(variables, attrs=variables["entropy"].attrs)
