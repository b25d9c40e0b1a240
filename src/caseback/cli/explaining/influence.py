"""`caseback influence`: which lines of a training corpus bear on a prediction."""

from typing import Annotated

from typer import Argument, Option

from caseback.cli.answer import answer
from caseback.cli.loading import model_of, quiet
from caseback.cli.options import CorpusFile, Json, Listed, Method, OfModel, Stored, Top
from caseback.cli.with_options import with_options
from caseback.errors import CasebackError
from caseback.jobs.text_file import read_texts


@with_options
def influence(
    query: Annotated[str | None, Argument(help="The text whose likelihood is explained.", show_default=False)] = None,
    texts: CorpusFile = CorpusFile(),
    completion: Annotated[
        str | None, Option(help="What follows the query, of which alone the likelihood is explained.")
    ] = None,
    of: OfModel = OfModel(),
    by: Method = Method("ekfac").worded(method="ekfac, trak, tracin, bm25 ...; --list names them."),
    listed: Listed = Listed().worded(listed="No query: name the methods."),
    checkpoints: Annotated[str | None, Option(help="trak, tracin: folders or hub ids, with commas between.")] = None,
    rates: Annotated[str | None, Option(help="tracin: learning rates, one or one for each checkpoint.")] = None,
    parts: Annotated[str, Option(help="attn, mlp, embed, unembed, or patterns of module paths.")] = "attn,mlp",
    rank: Annotated[
        int | None, Option(min=1, help="ekfac, kfac: directions kept on each side; all, but 32 with --store.")
    ] = None,
    dim: Annotated[
        int | None,
        Option(min=1, help="Of random projections; fisher: directions on each side, 16; trak: dimensions, 4096."),
    ] = None,
    stored: Stored = Stored().worded(
        max_length="Tokens at which lines are split; by default the model's context.",
        store="A folder that keeps the corpus's gradients, to ask again.",
    ),
    top: Top = Top(10).worded(top="How many lines are shown."),
    end: Annotated[str, Option(help="highest, lowest or strongest scores.")] = "highest",
    output: Json = Json(),
) -> None:
    """Find the training texts that bear on a prediction."""
    if listed.listed:
        _list(output)
        return
    if query is None:
        raise CasebackError("no query given: expected a text, or --list to name the methods")
    corpus = texts.corpus
    if corpus is None and stored.store is None:
        raise CasebackError("no corpus: give --corpus FILE, or --store with the folder of one that was read before")
    lines = None if corpus is None else read_texts(corpus, "--corpus")
    with quiet():
        from caseback.localize.inputs import top_examples
        from caseback.reports.training_texts import bearing_scores, training_methods
        from caseback.views.text.examples import print_scored

        scores = bearing_scores(
            model_of(of),
            query if completion is None else (query, completion),
            lines,
            method=by.method,
            parts=parts.replace(",", " ").split(),
            rank=rank,
            dim=dim,
            checkpoints=None if checkpoints is None else checkpoints.replace(",", " ").split(),
            rates=_rates(rates),
            max_length=stored.max_length,
            store=stored.store,
            progress=True,
        )
        best = top_examples(scores, top.top, end=end)
    title = f"{training_methods()[by.method].title}, {scores.sizes['example']} examples, {end} scores"
    answer(output, best, text=lambda: print_scored(scores, best, title))


def _list(output: Json) -> None:
    with quiet():
        from caseback.reports.tables.techniques import technique_row
        from caseback.reports.training_texts import training_methods
        from caseback.views.text.listings.techniques import print_methods

        rows = [
            technique_row(method.technique) | {"name": name, "summary": method.title}
            for name, method in training_methods().items()
        ]
    answer(output, rows, text=lambda: print_methods(rows))


def _rates(text: str | None) -> float | list[float] | None:
    if text is None:
        return None
    try:
        rates = [float(part) for part in text.replace(",", " ").split()]
    except ValueError:
        raise CasebackError(f"--rates {text!r}: expected numbers such as 0.1,0.05") from None
    return rates[0] if len(rates) == 1 else rates
