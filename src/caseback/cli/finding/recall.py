"""`caseback recall`: which heads follow the prompt where it contradicts what the model knows, and which memory."""

from typing import Annotated

from typer import Option

from caseback.cli.answer import answer
from caseback.cli.loading import model_of, quiet
from caseback.cli.options import Draws, OfModel, Output, Relation, Sample, Top
from caseback.cli.with_options import with_options


@with_options
def recall(
    relation: Relation = Relation(),
    of: OfModel = OfModel(),
    wording: Annotated[
        str | None,
        Option(help="How a claim and its question are written, with {claim} and {question}.", show_default=False),
    ] = None,
    top: Top = Top(3).worded(top="How many heads of each kind are turned."),
    draws: Draws = Draws().worded(draws="Random sets of as many other heads."),
    sample: Sample = Sample(count=33).worded(count="How many facts are drawn."),
    output: Output = Output(),
) -> None:
    """What the prompt claims against what is known: heads that speak for either, and a dial of each."""
    with quiet():
        from caseback.behaviors import context_memory
        from caseback.behaviors.mechanisms.context_memory import WORDING
        from caseback.reports.concepts.context_memory import context_memory_document
        from caseback.reports.concepts.facts import drawn_facts
        from caseback.views.page.kinds import write_page
        from caseback.views.text.concepts.context_memory import print_context_memory

        facts = drawn_facts(relation.relation, count=sample.count, seed=sample.seed)
        model = model_of(of)
        how = {"top": top.top, "draws": draws.draws, "seed": sample.seed, "progress": True}
        dial = context_memory(model, facts, wording=WORDING if wording is None else wording, **how)
        document = context_memory_document(model, dial, relation.name)
    answer(output, document, text=lambda: print_context_memory(document), page=lambda path: write_page(document, path))
