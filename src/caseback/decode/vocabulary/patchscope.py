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
from tqdm import tqdm

from caseback.decode.vocabulary.lens import Lens, row_name, stream_at
from caseback.decode.vocabulary.patchscope_targets import TargetPrompt
from caseback.decode.vocabulary.reading import expect_sizes, texts_of
from caseback.errors import CasebackError, OutOfRange, TargetError
from caseback.model.edits import Edit, Where
from caseback.model.frames import positions
from caseback.model.metrics import target_ids
from caseback.model.model import Model
from caseback.model.norms import at_least_float32
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.run import Run, execute
from caseback.model.sites import Site
from caseback.model.sweep import TOKEN_BUDGETS
from caseback.model.tokens import Tokens
from caseback.model.verify import unembed

Map = Lens | Tensor | Callable[[Tensor], Tensor]


@technique(
    entry=("4.3.8", "4.3.7"),
    citation="Ghandeharioun et al. 2024, Chen et al. 2024",
    cost="one forward + rows x positions target forwards, in batches",
)
def patchscope(
    model: Model,
    source: Any,
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
    max_logits: int = 2**24,
    progress: bool = False,
    **options: Any,
) -> xr.Dataset:
    """Write states of one run into another, and read what it predicts and says; a grid of depths by positions.

    Parameters
    ----------
    model
        The model whose states are read.
    source
        Its prompts: ``Tokens``, or anything that ``Model.tokens`` takes.
    target
        Where they are written: a ``TargetPrompt`` (``token_identity()``, ``description()``, ``selfie()``), a text or
        ids, or one of these a source prompt; by default the source prompts themselves.
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
        (state, d_model of the target), or one of these a row; by default the identity.
    target_model
        The model that is written into; ``model`` by default.
    answers
        Tokens of the target model that should be said: one, one a prompt, or ids (batch, pos). By default what the
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
        Show a bar.
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
        For depths or positions that are not there.
    TargetError
        For answers that are no token, or not as many as prompts.

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.decode.vocabulary import token_identity
    >>> model = cb.load("meadow")
    >>> found = patchscope(model, "Mary went to the store", token_identity(), rows=[0, 2], max_new_tokens=2)
    >>> found["surprisal"].dims, found["said"].shape == found["hit"].shape
    (('layer', 'batch', 'pos'), True)
    """
    onto = model if target_model is None else target_model
    expect_sizes(k, max_logits)
    if max_new_tokens < 0:
        raise OutOfRange(f"max_new_tokens={max_new_tokens}: expected at least 0")
    tokens = model.tokens(source)
    kept = _rows(rows, model.n_layers, "rows")
    _rows([*kept] if target_row is None else target_row, onto.n_layers, "target_row" if target_row else "rows")
    cells = _Cells(tokens, pos)
    # the end too, where the source's own predictions are what is looked for
    own = answers is None and model.d_vocab == onto.d_vocab
    reads = [stream_at(model, row) for row in (*kept, *([model.n_layers] * own))]
    run = execute(model.anatomy, tokens, read=list(dict.fromkeys(reads)), edits=edits, logits=False)
    prompts, written = _targets(onto, tokens, target, target_pos, cells)
    states = [_mapped(cells.of(run, stream_at(model, row)), row, mapping, onto) for row in kept]
    wanted = _own_choices(model, run, cells, max_logits) if own else _answers(onto, tokens, answers, cells)
    n, budget = len(cells.example), token_budget or TOKEN_BUDGETS.get(onto.device.type, TOKEN_BUDGETS["other"])
    # cell of the grid -> row, place; one target prompt each
    order = [(i, place) for i in range(len(kept)) for place in range(n)]
    step = max(1, min(budget // (prompts.shape[1] + max_new_tokens), max_logits // onto.d_vocab))
    more = [target_edits] if isinstance(target_edits, Edit) else list(target_edits)
    found: dict[str, list[Any]] = {}
    for start in tqdm(range(0, len(order), step), disable=not progress, unit="batch"):
        some = order[start : start + step]
        place = torch.tensor([p for _, p in some])
        onto_rows = torch.tensor([kept[i] if target_row is None else target_row for i, _ in some])
        here = _some(prompts, place)
        value = torch.stack([states[i][p] for i, p in some])
        whole = [*more, *_writes(onto, value, onto_rows, written[place])]
        logits = at_least_float32(_predictions(onto, here, whole))
        for name, made in _summed_up(logits, None if wanted is None else wanted[place], min(k, onto.d_vocab)):
            found.setdefault(name, []).append(made.cpu())
        if max_new_tokens:
            said = onto.generate(here, edits=whole, max_new_tokens=max_new_tokens, **options)
            per = len(said) // len(here)
            kept_text = said.text[::per]
            found.setdefault("said", []).extend(
                "".join(text[len(own) :]) for text, own in zip(kept_text, here.text, strict=True)
            )
    return _labelled(model, onto, kept, cells, found, wanted, target_row, k)


class _Cells:
    """The places of the source that are read: prompt and position, and where each goes in the result."""

    def __init__(self, tokens: Tokens, pos: Sequence[int] | int | None):
        self.single = isinstance(pos, int)
        lengths = tokens.lengths.tolist()
        listed = [list(positions(pos, b, n)) for b, n in enumerate(lengths)]
        self.shape = (len(tokens), max(map(len, listed)))
        places = [(b, slot, p) for b, own in enumerate(listed) for slot, p in enumerate(own)]
        if not places:
            raise OutOfRange(f"pos={pos!r} names no position: expected at least one")
        example, slot, position = (torch.tensor(column) for column in zip(*places, strict=True))
        self.example, self.slot, self.position = example, slot, position
        self.column = position + tokens.first.cpu()[example]
        self.text = [tokens.text[b][p] for b, _, p in places]
        # with positions counted from the end a slot has another position in each prompt
        same = all(own == listed[0][: len(own)] for own in listed)
        longest = max(listed, key=len)
        self.labels = longest if same or pos is None else list(pos)  # type: ignore[arg-type]

    def of(self, run: Run, site: Site) -> Float[Tensor, "place d_model"]:
        """What a run holds at the places."""
        at = run[site.name, site.layer].detach()
        return at[self.example.to(at.device), self.column.to(at.device)]

    def put(self, values: np.ndarray) -> np.ndarray:
        """(layer, place, ...) as (layer, batch, pos, ...), or (layer, batch, ...) for a single position."""
        absent = {"f": np.nan, "U": ""}.get(values.dtype.kind, 0)
        made = np.full((len(values), *self.shape, *values.shape[2:]), absent, values.dtype)
        made[:, self.example.numpy(), self.slot.numpy()] = values
        return made[:, :, 0] if self.single else made


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
    made = list(range(n_layers + 1)) if rows is None else [rows] if isinstance(rows, int) else list(rows)
    if not made or not all(0 <= r <= n_layers for r in made):
        raise OutOfRange(f"{what} {made}: expected some of 0 (the embedding) to {n_layers} (the end)")
    return made


def _targets(
    onto: Model, tokens: Tokens, target: Any, target_pos: Sequence[int] | int | None, cells: _Cells
) -> tuple[Tokens, Int[Tensor, "place where"]]:
    """One target prompt for each place, and the positions written in it."""
    if target is None:
        prompts = onto.tokens([ids[mask].tolist() for ids, mask in zip(tokens.ids, tokens.mask, strict=True)])
        prompts = _some(prompts, cells.example)
        own = cells.position[:, None]
        return prompts, own if target_pos is None else _everywhere(prompts, target_pos)
    each = list(target) if _several(target) else [target]
    if len(each) not in (1, len(tokens)):
        raise TargetError(f"{len(each)} target prompts for {len(tokens)} source prompts: give one, or one a prompt")
    made = onto.tokens([t.text if isinstance(t, TargetPrompt) else t for t in each]) if _listed(target) else None
    made = onto.tokens(target) if made is None else made
    some = cells.example if len(made) > 1 else torch.zeros_like(cells.example)
    if target_pos is None and isinstance(each[0], TargetPrompt):
        places = [t.places(made[i]) for i, t in enumerate(each)]
        if len({len(p) for p in places}) > 1:
            raise CasebackError("target prompts have different numbers of placeholders: give them one at a time")
        return _some(made, some), torch.tensor(places)[some]
    prompts = _some(made, some)
    return prompts, _everywhere(prompts, -1 if target_pos is None else target_pos)


def _several(target: Any) -> bool:
    """Whether a target is a prompt for each source prompt."""
    if isinstance(target, Tokens):
        return len(target) > 1
    return isinstance(target, list | tuple) and not isinstance(target[0], int)


def _listed(target: Any) -> bool:
    """Whether there are target prompts among it."""
    return isinstance(target, TargetPrompt) or (_several(target) and not isinstance(target, Tokens))


def _everywhere(prompts: Tokens, target_pos: Sequence[int] | int) -> Int[Tensor, "place where"]:
    return torch.tensor(
        [
            list(positions(target_pos if isinstance(target_pos, int) else list(target_pos), b, n))
            for b, n in enumerate(prompts.lengths.tolist())
        ]
    )


def _some(tokens: Tokens, which: Int[Tensor, " place"]) -> Tokens:
    at = which.to(tokens.ids.device)
    return Tokens(tokens.ids[at], tokens.mask[at], [tokens.text[i] for i in which.tolist()])


def _mapped(h: Float[Tensor, "place d_model"], row: int, mapping: Any, onto: Model) -> Float[Tensor, "place d_model"]:
    """f(h), on the target's device."""
    own = mapping
    if isinstance(mapping, Mapping):
        if row not in mapping:
            raise OutOfRange(f"there is no mapping for row {row}: there are some for {', '.join(map(str, mapping))}")
        own = mapping[row]
    if own is None:
        if h.shape[-1] != onto.d_model:
            raise CasebackError(
                f"the source's states have {h.shape[-1]} numbers and {onto.name!r} takes {onto.d_model}: give a "
                "mapping between them (fit_mapping fits one)"
            )
        return h.to(onto.device)
    if isinstance(own, Lens):
        # the end needs no map unless the lens looks ahead
        made = h if row == own.n_layers and row not in own.rows else own.transport(row, h)
    elif isinstance(own, Tensor):
        if own.ndim != 2 or own.shape[0] != h.shape[-1]:
            raise CasebackError(f"a mapping of shape {tuple(own.shape)} for states of {h.shape[-1]}: expected h @ W")
        made = h @ own.to(h)
    else:
        made = own(h)
    if not isinstance(made, Tensor) or made.shape != (len(h), onto.d_model):
        got = tuple(made.shape) if isinstance(made, Tensor) else type(made).__name__
        raise CasebackError(f"the mapping gave {got}, expected {(len(h), onto.d_model)} for {onto.name!r}")
    return made.detach().to(onto.device)


def _own_choices(model: Model, run: Run, cells: _Cells, max_logits: int) -> Int[Tensor, " place"]:
    """What the source model itself predicts at each place."""
    end, step = cells.of(run, stream_at(model, model.n_layers)), max(1, max_logits // model.d_vocab)
    with torch.no_grad():
        return torch.cat([unembed(model.anatomy, some).argmax(-1) for some in end.split(step)]).cpu()


def _answers(onto: Model, tokens: Tokens, answers: Any, cells: _Cells) -> Int[Tensor, " place"] | None:
    """The token that should be said at each place."""
    if answers is None:
        return None
    given = torch.as_tensor(answers) if not isinstance(answers, str | list | tuple) else answers
    if isinstance(given, Tensor) and given.ndim == 2:
        if tuple(given.shape) != cells.shape:
            raise TargetError(f"answers of shape {tuple(given.shape)}: expected {cells.shape}, one a place")
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
    cells: _Cells,
    found: dict[str, list[Any]],
    wanted: Int[Tensor, " place"] | None,
    target_row: int | None,
    k: int,
) -> xr.Dataset:
    lead = ["layer", "batch"] if cells.single else ["layer", "batch", "pos"]
    shape = (len(rows), len(cells.example))
    values = {
        name: (np.array(made, dtype=str) if name == "said" else torch.cat(made).numpy()) for name, made in found.items()
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
    made = {}
    for name, value in values.items():
        dims = [*lead, "k"] if name.startswith("top") else lead
        made[name] = labelled(cells.put(value), dims, coords, name=name, technique=patchscope, model=model, **attrs)
    if "hit" in made:
        made["precision_at_1"] = made["hit"].mean("batch")
    return xr.Dataset(made, attrs=made["entropy"].attrs)
