"""`caseback facts`: how a model recalls facts of a relation, from the subject to the answer."""

from caseback.cli.answer import answer
from caseback.cli.loading import model_of, quiet
from caseback.cli.options import OfModel, Output, Relation, Sample, Window
from caseback.cli.with_options import with_options


@with_options
def facts(
    relation: Relation = Relation(),
    of: OfModel = OfModel(),
    sample: Sample = Sample(count=20).worded(count="How many facts are drawn."),
    window: Window = Window().worded(window="Layers cut together; by default 9 of 48, as Geva et al. have it."),
    output: Output = Output(),
) -> None:
    """How facts are recalled: what the answer hangs on, where the subject's words come up, which layers fetch it."""
    with quiet():
        from caseback.behaviors import fact_flow
        from caseback.edit import relation_facts
        from caseback.reports.concepts.facts import facts_document, relation_of
        from caseback.views.page.kinds import write_page
        from caseback.views.text.concepts.facts import print_facts

        drawn = relation_facts(relation_of(relation.relation), count=sample.count, seed=sample.seed)
        model = model_of(of)
        flow = fact_flow(model, drawn, window=window.window, seed=sample.seed, progress=True)
        document = facts_document(model, flow, relation.name)
    answer(output, document, text=lambda: print_facts(document), page=lambda path: write_page(document, path))
