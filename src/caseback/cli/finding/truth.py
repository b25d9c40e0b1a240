"""`caseback truth`: can it be told from the inside whether a statement is true, or an answer right?"""

import os
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from caseback.cli.answer import answer
from caseback.cli.inputs import names_in
from caseback.cli.loading import model_of, quiet
from caseback.cli.options import OfModel, Output, Sample
from caseback.cli.with_options import with_options
from caseback.errors import CasebackError

WORLD = "the closed world"


@with_options
def truth(
    statements: Annotated[
        list[str] | None,
        Argument(
            help="A file with the columns statement and label (.csv, .jsonl, .parquet ...), or with --relations "
            "files or folders of relations; by default the bundled models' own world.",
            show_default=False,
        ),
    ] = None,
    of: OfModel = OfModel(),
    relations: Annotated[
        bool, Option("--relations", help="Files hold facts (relations, or known facts): statements are made of them.")
    ] = False,
    answers: Annotated[
        bool, Option("--answers", help="Judge on the model's own answers to facts, whether they are right.")
    ] = False,
    sampled: Annotated[int, Option(min=0, help="With --answers, how many more are drawn of each question.")] = 0,
    methods: Annotated[
        str | None, Option(help="Detectors by name, parted by commas; by default all that can be.", show_default=False)
    ] = None,
    hold_out: Annotated[str, Option(help="topics or facts: what is not both fitted to and judged.")] = "topics",
    folds: Annotated[int, Option(min=2, help="Into how many parts these are dealt; at most one each.")] = 5,
    untrained: Annotated[
        bool, Option("--untrained", help="Add the same architecture with the weights that training starts from.")
    ] = False,
    no_negations: Annotated[bool, Option("--no-negations", help="Make no negated statements.")] = False,
    sample: Sample = Sample(count=40).worded(count="How many facts of a topic are drawn."),
    output: Output = Output(),
) -> None:
    """Which detector tells what is true, on topics that it has not seen, beside length, words and probability."""
    given = statements or []
    if sampled and not answers:
        raise CasebackError("--sampled are more answers to a question: give --answers too")
    if sampled == 1:
        raise CasebackError("--sampled 1: expected 2 or more, which are compared with each other")
    if answers and given and not relations:
        raise CasebackError("--answers are to facts: give --relations with files of relations, or no file")
    if relations and not given:
        raise CasebackError("--relations needs a file or a folder of relations")
    if not relations and len(given) > 1:
        raise CasebackError(f"{len(given)} files of statements: expected one, or --relations with files of relations")
    with quiet():
        from caseback.behaviors import model_answers, sample_answers, truth_detection, world_facts
        from caseback.reports.concepts.truth import truth_document
        from caseback.tasks import facts_of_files, load_statements, statements_of
        from caseback.views.page.kinds import write_page
        from caseback.views.text.concepts.truth import print_truth

        title = ", ".join(Path(os.path.abspath(name)).stem for name in given) or WORLD
        drawn = None
        if relations or not given:
            pairs = facts_of_files([*given]) if relations else world_facts()
            how = {"each": sample.count, "seed": sample.seed}
            model = model_of(of)
            if answers:
                read = model_answers(model, pairs, progress=True, **how)
                title = f"answers to {title}"
                if sampled:
                    ends = [
                        len(text) if end is None else end for text, end in zip(read.texts, read.answers, strict=True)
                    ]
                    prompts = [text[:end] for text, end in zip(read.texts, ends, strict=True)]
                    drawn = sample_answers(model, prompts, sampled, seed=sample.seed, progress=True)
            else:
                read = statements_of(pairs, negated=not no_negations, **how)
        else:
            read = load_statements(given[0])
            model = model_of(of)
        report = truth_detection(
            model,
            read,
            samples=drawn,
            methods=None if methods is None else names_in(methods),
            hold_out=hold_out,  # pyright: ignore[reportArgumentType]
            n_folds=folds,
            untrained=untrained,
            seed=sample.seed,
            progress=True,
        )
        document = truth_document(model, report, title)
    answer(output, document, text=lambda: print_truth(document), page=lambda path: write_page(document, path))
