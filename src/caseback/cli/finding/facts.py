"""`caseback facts`: how a model recalls facts of a relation, from the subject to the answer."""

from typing import Annotated

from typer import Option

from caseback.cli.answer import answer
from caseback.cli.loading import model_of, quiet
from caseback.cli.options import OfModel, Output, Relation, Sample, Window
from caseback.cli.with_options import with_options
from caseback.errors import CasebackError


@with_options
def facts(
    relation: Relation = Relation(),
    of: OfModel = OfModel(),
    sample: Sample = Sample(count=20).worded(count="How many facts are drawn."),
    window: Window = Window().worded(window="Layers cut together; by default 9 of 48, as Geva et al. have it."),
    other_relation: Annotated[
        str | None,
        Option(help="Another relation of the same subjects, as for --relation: what heads say of the first there."),
    ] = None,
    examples: Annotated[
        int | None,
        Option("--map", min=2, help="Fit the relation's affine map to so many of the facts, and judge it on others."),
    ] = None,
    demonstrations: Annotated[
        bool,
        Option(help="With --map: other facts stand before each prompt, as published."),
    ] = True,
    low_rank: Annotated[
        bool,
        Option("--low-rank", help="Look for one MLP weight of low rank that is rid of wrong but plausible answers."),
    ] = False,
    output: Output = Output(),
) -> None:
    """How facts are recalled: what the answer hangs on, which layers and heads fetch it, and whether one map does."""
    if not demonstrations and examples is None:
        raise CasebackError("--no-demonstrations is of the map that --map asks for")
    with quiet():
        from caseback.behaviors import additive_recall, fact_flow, plausible_answers, relation_map
        from caseback.behaviors.facts.additive_recall import LEAST
        from caseback.reports.concepts.facts import drawn_facts, facts_document
        from caseback.views.page.kinds import write_page
        from caseback.views.text.concepts.facts import print_facts

        drawn = drawn_facts(relation.relation, count=sample.count, seed=sample.seed)
        one = len({fact.prompt for fact in drawn}) == 1
        if not one and (examples is not None or other_relation is not None or low_rank):
            raise CasebackError("--map, --other-relation and --low-rank are of one relation, these facts of several")
        model = model_of(of)
        flow = fact_flow(model, drawn, window=window.window, seed=sample.seed, progress=True)
        known = int((flow["rank"] == 1).sum()) if one else 0
        beside = None if other_relation is None else drawn_facts(other_relation)
        votes = additive_recall(model, drawn, other=beside, seed=sample.seed) if known >= LEAST else None
        fitted = None
        if examples is not None:
            how = {"examples": examples, "demonstrations": demonstrations, "seed": sample.seed}
            fitted = relation_map(model, drawn, **how, progress=True)
        ranked = plausible_answers(model, drawn, seed=sample.seed, progress=True) if low_rank else None
        document = facts_document(model, flow, relation.name, votes=votes, fitted=fitted, plausible=ranked)
    answer(output, document, text=lambda: print_facts(document), page=lambda path: write_page(document, path))
