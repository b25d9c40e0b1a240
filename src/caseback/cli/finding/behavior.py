"""`caseback behavior`: whether a model does a task, who has which role in it, and what proves them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from caseback.cli.answer import answer, say_written
from caseback.cli.loading import quiet
from caseback.cli.options import OfModel, OfTask, Output, Sample, Save, Top
from caseback.cli.with_options import with_options
from caseback.errors import CasebackError

if TYPE_CHECKING:
    from caseback.behaviors import BehaviorReport
    from caseback.model.running.model import Model

FUNCTION, MEMORIZED = "function-vector", "memorization"


@with_options
def behavior(
    names: Annotated[
        list[str] | None,
        Argument(help=f"One or several, all, {FUNCTION} or {MEMORIZED}; none lists them.", show_default=False),
    ] = None,
    of: OfModel = OfModel().worded(model="A bundled model, a folder, a hub id, or indirect_object (made by hand)."),
    sample: Sample = Sample(count=20).worded(
        count=f"Prompts that parts are chosen on, and as many to judge them on; of {MEMORIZED}: texts, the first."
    ),
    top: Top = Top(5).worded(top="Candidates of each role that are put to the proof."),
    of_task: OfTask = OfTask().worded(
        task=f"Of {FUNCTION}: antonym, capital … or a JSON file of pairs with input and output; of {MEMORIZED}: "
        "idioms, such a file, or text with a passage a line."
    ),
    pair_set: Annotated[
        list[Path] | None,
        Option(
            help="Pairs of prompts in place of a behavior, as JSON lines (clean_prefix, patch_prefix, clean_answer, "
            "patch_answer, case); given again, a set to compare with, such as another language.",
            show_default=False,
        ),
    ] = None,
    other: Annotated[
        str | None, Option(help="Another such function, whose vectors stand beside.", show_default=False)
    ] = None,
    shots: Annotated[int, Option(min=2, help=f"Of {FUNCTION}: examples in a prompt.")] = 5,
    save: Save = Save().worded(save=f"Of {FUNCTION}: write the vector, as an edit, to this file."),
    output: Output = Output(),
) -> None:
    """Who does a task: heads and MLPs by role, chosen on some prompts, proved on others beside random ones."""
    asked, task = names or [], of_task.task
    function, memorized = asked == [FUNCTION], asked == [MEMORIZED]
    for alone in (FUNCTION, MEMORIZED):
        if alone in asked and len(asked) > 1:
            raise CasebackError(f"{alone} is asked for by itself, with --task")
    if function and task is None:
        raise CasebackError(f"{FUNCTION} needs --task: a function such as antonym or capital, or a file of pairs")
    if not function:
        for option, value in (("--task", None if memorized else task), ("--other", other), ("--save", save.save)):
            if value is not None:
                raise CasebackError(f"{option} is of {FUNCTION}: expected `caseback behavior {FUNCTION} --task NAME`")
    if pair_set and asked:
        raise CasebackError(f"--pair-set stands in place of a behavior: leave out {asked[0]!r}")
    if memorized:
        _memorized(task or "idioms", of, sample, output)
        return
    if not asked and not pair_set:
        _list(output)
        return
    with quiet():
        from caseback.reports.behavior import behavior_document, model_and_words
        from caseback.views.page.kinds import write_page
        from caseback.views.text.behavior import print_behavior

        if pair_set:
            model, _ = model_and_words(of.model, **of.how)
            reports = _pair_sets(model, pair_set, sample, top.top)
        elif function:
            model, _ = model_and_words(of.model, **of.how)
            reports = [_function(model, str(task), other, sample, top.top, shots, save.save)]
        else:
            model, reports = _behaviors(asked, of, sample, top.top)
        document = behavior_document(model, reports)
    answer(output, document, text=lambda: print_behavior(document), page=lambda path: write_page(document, path))
    if save.save is not None and reports[0].present:
        say_written(save.save)


def _list(output: Output) -> None:
    if output.html is not None:
        raise CasebackError("--html draws what was measured: name a behavior")
    with quiet():
        from caseback.reports.behavior import behavior_rows
        from caseback.views.text.behavior import print_behaviors

        rows = behavior_rows()
    answer(output, rows, text=lambda: print_behaviors(rows))


def _memorized(task: str, of: OfModel, sample: Sample, output: Output) -> None:
    with quiet():
        from caseback.behaviors import memorization
        from caseback.cli.loading import model_of
        from caseback.reports.concepts.memorization import memorization_document, texts_by_heart
        from caseback.views.page.kinds import write_page
        from caseback.views.text.concepts.memorization import print_memorization

        texts, others = texts_by_heart(task)
        model = model_of(of)
        known = memorization(model, texts[: sample.count], others=others, seed=sample.seed, progress=True)
        document = memorization_document(model, known, Path(task).stem)
    answer(output, document, text=lambda: print_memorization(document), page=lambda path: write_page(document, path))


def _behaviors(asked: list[str], of: OfModel, sample: Sample, top: int) -> "tuple[Model, list[BehaviorReport]]":
    from caseback.behaviors import BEHAVIORS
    from caseback.behaviors import behavior as measured
    from caseback.errors import did_you_mean
    from caseback.reports.behavior import model_and_words

    names = list(BEHAVIORS) if asked == ["all"] else list(dict.fromkeys(asked))
    for name in names:
        if name not in BEHAVIORS:
            known = (*BEHAVIORS, FUNCTION, MEMORIZED, "all")
            raise CasebackError(f"no behavior is called {name!r}. {did_you_mean(name, known, most=len(known))}")
    model, words = model_and_words(of.model, **of.how)
    if words:  # a model made by hand speaks of nothing else
        if odd := [name for name in asked if name not in (*words, "all")]:
            raise CasebackError(f"{of.model} knows the words of {', '.join(words)} alone, not of {odd[0]}")
        names = list(words)
    how = {"prompts": sample.count, "top": top, "seed": sample.seed, "progress": True}
    return model, [measured(model, name, task=words.get(name), **how) for name in names]


def _pair_sets(model: "Model", files: list[Path], sample: Sample, top: int) -> "list[BehaviorReport]":
    from caseback.behaviors import pair_sets
    from caseback.tasks.formats import agreement_pairs

    names = [file.stem for file in files]
    if len(set(names)) < len(names):
        raise CasebackError(
            f"--pair-set {', '.join(map(str, files))}: two files have one name, by which sets are called"
        )
    sets = {name: agreement_pairs(file) for name, file in zip(names, files, strict=True)}
    return pair_sets(model, sets, prompts=sample.count, top=top, seed=sample.seed, progress=True)


def _function(
    model: "Model", task: str, other: str | None, sample: Sample, top: int, shots: int, save: Path | None
) -> "BehaviorReport":
    from caseback.behaviors import function_behavior
    from caseback.model.running.saved_edits import save_edits
    from caseback.reports.behavior import function_words

    report, vectors = function_behavior(
        model,
        function_words(model, task),
        other=None if other is None else function_words(model, other),
        name=Path(task).stem,
        shots=shots,
        prompts=sample.count,
        top=2 * top,
        seed=sample.seed,
        progress=True,
    )
    if save is not None:
        if not vectors:
            raise CasebackError(f"{model.name} does not do {task}: there is no vector to save")
        save_edits(vectors["function vector"].edit, save, provenance=model.provenance())
    return report
