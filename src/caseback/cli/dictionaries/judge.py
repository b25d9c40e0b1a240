"""`caseback dictionary judge`: whether what is said of features is right, asked of a language model."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from caseback.cli.answer import answer
from caseback.cli.dictionaries.shared_options import Force, NotesFile, SomeFeatures
from caseback.cli.loading import model_of, quiet
from caseback.cli.options import MaxLength, OfModel, Output, Resume, Sample
from caseback.cli.with_options import with_options
from caseback.errors import CasebackError


@with_options
def judge(
    dictionary: Annotated[Path, Argument(help="A dictionary: a file or folder of any layout.", show_default=False)],
    corpus: Annotated[
        Path, Argument(help="A file of texts on which the explanations were not made, or a folder.", show_default=False)
    ],
    of: OfModel = OfModel(),
    by: Annotated[
        str | None,
        Option("--asked", help="The model that is asked, a folder or a hub id; by default the model itself."),
    ] = None,
    explanations: Annotated[
        Path | None, Option(help="Explanations in Neuronpedia's form, as caseback label --export writes them.")
    ] = None,
    noted: NotesFile = NotesFile().worded(
        notes="A file of people's notes, as caseback label writes it; without either, conditions on tokens are fitted "
        "to half of the texts."
    ),
    some: SomeFeatures = SomeFeatures().worded(some="Features to judge: 3,17; by default some, drawn at random."),
    sample: Sample = Sample(count=20).worded(count="How many features are drawn, without --features."),
    windows: Annotated[int, Option(min=1, help="Windows in which a feature fires, and as many others.")] = 10,
    window_tokens: Annotated[int, Option(min=2, help="Tokens of a window.")] = 32,
    force: Force = Force(),
    length: MaxLength = MaxLength(),
    resume: Resume = Resume(),
    output: Output = Output(),
) -> None:
    """Ask a model whether features fire where they are said to, beside the words of other features."""
    if explanations is not None and noted.notes is not None:
        raise CasebackError("both --explanations and --notes given: expected one of them")
    with quiet():
        from caseback.decode.dictionaries import judge_explanations, load, local_judge
        from caseback.model.notes import Notes
        from caseback.reports.concepts.judged_explanations import explanations_to_judge, judged_document
        from caseback.views.page.kinds import write_page
        from caseback.views.text.concepts.judged_explanations import print_judged_explanations

        model = model_of(of)
        one = load(dictionary, model=model, force=force.force)
        how = {"length": length.max_length, "seed": sample.seed, "progress": True}
        given = explanations if noted.notes is None else Notes.load(noted.notes)
        words, texts = explanations_to_judge(model, one, corpus, given, features=some.chosen, count=sample.count, **how)
        asked = model if by is None else model_of(OfModel(model=by))
        judged = judge_explanations(
            model,
            one,
            texts,
            words,
            local_judge(asked),
            n=windows,
            window=window_tokens,
            checkpoint=resume.checkpoint,
            **how,
        )
        source = "conditions on tokens" if given is None else str(explanations or noted.notes)
        document = judged_document(model, one, judged, judge=asked.name, source=source)
    answer(
        output,
        document,
        text=lambda: print_judged_explanations(document),
        page=lambda path: write_page(document, path),
    )
