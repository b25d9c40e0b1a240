"""`caseback requests`: at which layers the last token holds what is asked for, and not yet the answer."""

from typing import Annotated

from typer import Argument

from caseback.cli.answer import answer
from caseback.cli.loading import model_of, quiet
from caseback.cli.options import OfModel, Output, Sample
from caseback.cli.with_options import with_options


@with_options
def requests(
    relations: Annotated[
        list[str] | None,
        Argument(help="Two or more of capital, language … or JSON files of relations; by default capital language."),
    ] = None,
    of: OfModel = OfModel(),
    sample: Sample = Sample(count=40).worded(count="How many pairs of prompts are drawn."),
    output: Output = Output(),
) -> None:
    """Where a request is held: its state put into prompts that ask for something else of something else."""
    with quiet():
        from caseback.behaviors import request_patching
        from caseback.reports.concepts.requests import relations_of, requests_document
        from caseback.views.page.kinds import write_page
        from caseback.views.text.concepts.requests import print_requests

        asked, contexts, answers = relations_of(relations or ["capital", "language"])
        model = model_of(of)
        how = {"count": sample.count, "seed": sample.seed, "progress": True}
        document = requests_document(model, request_patching(model, asked, contexts, answers, **how))
    answer(output, document, text=lambda: print_requests(document), page=lambda path: write_page(document, path))
