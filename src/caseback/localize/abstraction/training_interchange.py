"""Interchange intervention training: weights that make a causal model true of a network (PRIMER 3.2.33).

    loss = w_task CE(N(b), M(b)) + w CE(N(b | do(place := place on s)), M(b | do(V := V(s))))

Gradients go through the base and through the source, whose weights are the same. A causal proxy model has no labels
but a teacher: it answers as the teacher does on b and on the counterfactual b', and on b with the places swapped as the
teacher does on b',

    loss = KL(T(b) || N(b)) + KL(T(b') || N(b')) + w KL(T(b') || N(b | do(place := place on s))).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor, nn

from caseback.errors import CasebackError
from caseback.jobs.training import Plan, fit
from caseback.localize.abstraction.accuracy import accuracies, interchange_accuracy, swaps
from caseback.localize.abstraction.alignment import Alignment, At, places_of, seats
from caseback.localize.abstraction.distributed import expect_changes, job_of, parts
from caseback.localize.abstraction.interchanges import Interchanges, joined
from caseback.model.anatomy.classes import logits_of
from caseback.model.anatomy.parameters import expect_own_numbers
from caseback.model.anatomy.sites import Site
from caseback.model.loading.load import load
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.edits import Edit
from caseback.model.running.frames import batch_frame
from caseback.model.running.model import Model
from caseback.model.running.passing import passing
from caseback.model.running.run import Run, execute, inputs_of, resolve
from caseback.model.running.session import Session
from caseback.model.running.tokens import Tokens
from caseback.model.running.undo import as_found
from caseback.model.running.wiring import wired


class Trained(NamedTuple):
    """A trained network and how it does on examples that were held out."""

    model: Model
    accuracy: xr.DataArray


@technique(
    role="causal abstraction",
    entry=("3.2.33",),
    citation="Geiger et al. 2022, Wu et al. 2022",
    cost="epochs x (3 forwards + backward); with a teacher a forward and 2 prompts more",
)
def interchange_training(
    model: Model,
    data: Interchanges,
    alignment: Alignment,
    *,
    weight: float = 1.0,
    task_weight: float = 1.0,
    teacher: Model | None = None,
    in_place: bool = False,
    held_out: float | Interchanges = 0.2,
    epochs: int = 10,
    batch_size: int = 32,
    lr: float = 1e-3,
    warmup: float = 0.1,
    patience: int | None = None,
    among: Sequence[str | int] | None = None,
    seed: int = 0,
    progress: bool = False,
    checkpoint: str | Path | None = None,
) -> Trained:
    """Train a copy of a network until variables lie where the alignment says.

    Parameters
    ----------
    model
        The model. It is not changed unless ``in_place`` says so.
    data
        Examples of interchanges.
    alignment
        Where each variable is to lie.
    weight, task_weight
        Of the interchanged answers and of the factual ones.
    teacher
        A network to be imitated in place of labels, which makes the trained one its causal proxy; it may be ``model``.
        The examples must have ``counterfactual`` prompts.
    in_place
        Train the model in hand, and no copy.
    held_out, epochs, batch_size, lr, warmup, patience, among, seed, progress, checkpoint
        As for ``das``. Dropout is off.

    Returns
    -------
    Trained
        The trained ``model``, and ``accuracy``: (batch), its hits on the held-out examples, with the attributes
        ``accuracy``, ``task_accuracy``, ``accuracy_before``, ``loss_curve`` and ``held_out_curve``.

    Raises
    ------
    CasebackError
        Where no interchange changes the answer, a teacher has no counterfactuals to answer, or the model is under
        edits.

    Examples
    --------
    >>> from caseback.localize.abstraction.alignment import At
    >>> from caseback.localize.abstraction.causal_model import CausalModel
    >>> from caseback.organisms.compiled import build
    >>> gate = build("or_gate")
    >>> causal = CausalModel({"a": "01", "b": "01"}, {"or": ("ab", lambda a, b: max(a, b))})
    >>> data = Interchanges.sample(gate.model, causal, lambda v: f"{v['a']} {v['b']} =", "a", 60, changing=0.5)
    >>> place = {"a": At("resid_mid", layer=0, pos=-1, basis=torch.eye(9)[:3])}
    >>> trained, accuracy = interchange_training(gate.model, data, place, epochs=30, lr=0.05)
    >>> accuracy.attrs["accuracy_before"] < 0.5, accuracy.attrs["accuracy"], trained is gate.model
    (True, 1.0, False)
    """
    if teacher is not None and data.counterfactual is None:
        raise CasebackError(
            "a teacher answers counterfactual prompts, and these examples have none: swap variables that are inputs of "
            "the causal model, or give counterfactual="
        )
    if model.anatomy.standing:
        raise CasebackError("this model stands under edits, and its weights are trained: give the model itself")
    searched, judged = parts(data, held_out, seed)
    expect_changes(searched)
    student = model if in_place else load(copy.deepcopy(model.hf), tokenizer=model.tokenizer)
    student.name = model.name
    places_of(alignment, data)
    plan = Plan(
        epochs=epochs,
        batch_size=batch_size,
        warmup=warmup,
        patience=patience,
        seed=seed,
        progress=progress,
        checkpoint=checkpoint,
    )

    def judge() -> float:
        return float(accuracies(student, judged, [swaps(seats(student, judged, alignment))], among=among)[0])

    def loss(rows: Tensor, done: float) -> Tensor:
        part = searched[rows]
        return _loss(student, part, alignment, _targets(teacher, part), task_weight, weight)

    with _trainable(student.hf) as parameters:
        before = judge()
        job = {
            **job_of(student, searched, alignment, "interchange_training", weight, task_weight),
            "teacher": teacher,
            "held out": [judged, among],
        }
        curve = fit([(parameters, lr)], loss, len(searched), plan, judge=judge, job=job, what="training")
    accuracy = interchange_accuracy(student, judged, alignment, among=among)
    names = ("alignment", "accuracy", "accuracy_where_changed", "task_accuracy")
    return Trained(
        student,
        labelled(
            accuracy.values,
            ["batch"],
            {name: ("batch", accuracy[name].values) for name in ("answer", "target", "base_target")},
            name="hit",
            technique=interchange_training,
            model=student,
            **{name: accuracy.attrs[name] for name in names if name in accuracy.attrs},
            accuracy_before=before,
            loss_curve=curve.loss,
            held_out_curve=curve.judged,
            epochs=len(curve.loss),
            batch_size=batch_size,
            lr=lr,
            warmup=warmup,
            weight=weight,
            task_weight=task_weight,
            teacher=None if teacher is None else teacher.name,
            in_place=in_place,
            seed=seed,
        ),
    )


def _places(alignment: Alignment) -> list[At]:
    return [at for places in alignment.values() for at in (places if isinstance(places, Sequence) else [places])]


class _Targets(NamedTuple):
    """What is to be answered: ids, or a teacher's log probabilities, of the base, the swap and the counterfactual."""

    factual: Tensor
    swapped: Tensor
    teacher: bool


def _targets(teacher: Model | None, part: Interchanges) -> _Targets:
    if teacher is None or part.counterfactual is None:
        return _Targets(part.base_target, part.target, False)
    both = [execute(teacher.anatomy, tokens).logits for tokens in (part.base, part.counterfactual)]
    log_p = [
        _at(logits, tokens, part.pos).log_softmax(-1)
        for logits, tokens in zip(both, (part.base, part.counterfactual), strict=True)
    ]
    return _Targets(log_p[0], log_p[1], True)


def _loss(
    student: Model, part: Interchanges, alignment: Alignment, targets: _Targets, task_weight: float, weight: float
) -> Tensor:
    """Of one step: base, sources (and counterfactuals) run as one batch, then the base with the sources' values."""
    n, anatomy = len(part), student.anatomy
    # one batch: rows 0 to n are the bases, then n rows per variable's sources, last the counterfactuals
    prompts = [part.base, *part.sources.values()]
    if targets.teacher and part.counterfactual is not None:
        prompts.append(part.counterfactual)
    together = prompts[0]
    for tokens in prompts[1:]:
        together = joined(together, tokens)
    sites = [at.site_in(student) for at in _places(alignment)]
    run = _open_run(student, together, read=sites)
    ran = {
        name: Run(anatomy, together[n * i : n * (i + 1)], {s: run[s][n * i : n * (i + 1)] for s in sites}, None)
        for i, name in enumerate(part.sources, 1)
    }
    seated = seats(student, part, alignment, ran=ran)
    swapped = _open_run(student, part.base, edits=swaps(seated))
    factual = _away(_at(run.logits[:n], together[:n], part.pos), targets.factual)
    if targets.teacher:
        last = slice(n * (len(prompts) - 1), None)
        factual = factual + _away(_at(run.logits[last], together[last], part.pos), targets.swapped)
    return task_weight * factual + weight * _away(_at(swapped.logits, part.base, part.pos), targets.swapped)


def _at(logits: Float[Tensor, "batch pos vocab"], tokens: Tokens, pos: int | Tensor) -> Float[Tensor, "batch vocab"]:
    rows = torch.arange(len(tokens), device=logits.device)
    picked = logits[rows, tokens.column(pos).to(logits.device)]
    return picked.float() if picked.dtype in (torch.float16, torch.bfloat16) else picked


def _away(logits: Float[Tensor, "batch vocab"], target: Tensor) -> Tensor:
    """Cross-entropy with ids, KL from log probabilities."""
    if target.is_floating_point():
        return nn.functional.kl_div(
            logits.log_softmax(-1), target.to(logits.device), log_target=True, reduction="batchmean"
        )
    return nn.functional.cross_entropy(logits, target.to(logits.device))


@as_found
def _open_run(model: Model, tokens: Tokens, *, read: Sequence[Site] = (), edits: Sequence[Edit] = ()) -> Run:
    """A run whose graph reaches the parameters."""
    anatomy = model.anatomy
    end = Site("logits")
    resolved = resolve(edits, anatomy, tokens)
    if end in read or any(site == end for _, site, _ in resolved):
        raise CasebackError("no weight lies behind the logits, so nothing can be trained there: choose an earlier site")
    session = Session(
        anatomy,
        batch_frame(tokens),
        tokens.shape,
        reads=list(dict.fromkeys(read)),
        edits=resolved,
        columns_before=[at for at, _ in tokens.extents],
    )
    with passing(anatomy), wired(session):
        logits = logits_of(anatomy.hf, inputs_of(tokens, anatomy.hf))
    session.finish()
    return Run(anatomy, tokens, session.acts, logits, edited=bool(edits))


@contextmanager
def _trainable(hf: nn.Module) -> Iterator[list[Tensor]]:
    """All parameters with gradients and all modules in eval mode, for as long as the context lasts."""
    expect_own_numbers(hf, "training")
    training = [module for module in hf.modules() if module.training]
    parameters = list(hf.parameters())
    frozen = [p for p in parameters if not p.requires_grad]
    gradients = [p.grad for p in parameters]
    hf.eval()
    for parameter in parameters:
        parameter.requires_grad_(True)
        parameter.grad = None
    try:
        yield list(parameters)
    finally:
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        for parameter in frozen:
            parameter.requires_grad_(False)
        for module in training:
            module.training = True
