"""`caseback routing`: which neurons fire only where a head has written."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from caseback.cli.answer import answer
from caseback.cli.loading import model_of, quiet
from caseback.cli.options import Ablation, MaxLength, OfModel, Output, Tokens, Top
from caseback.cli.with_options import with_options


@with_options
def routing(
    corpus: Annotated[
        Path, Argument(help="Plain text: texts, JSON lines or Parquet, or a folder of such files.", show_default=False)
    ],
    of: OfModel = OfModel(),
    ablation: Ablation = Ablation(ablation="mean").worded(ablation="What stands for a head's write: mean or zero."),
    norm: Annotated[str, Option(help="The norm before the MLP: frozen, or recomputed without the write.")] = "frozen",
    looked_for: Tokens = Tokens(tokens=4000),
    length: MaxLength = MaxLength(),
    top: Top = Top(20).worded(top="How many pairs of heads and neurons are judged."),
    output: Output = Output(),
) -> None:
    """Neurons that no longer fire once one head's write is taken out of what their MLP reads."""
    with quiet():
        from caseback.behaviors import neuron_routing
        from caseback.reports.concepts.routing import routing_document
        from caseback.views.page.kinds import write_page
        from caseback.views.text.concepts.routing import print_routing

        model = model_of(of)
        how = {"kind": ablation.ablation, "norm": norm, "length": length.max_length, "top": top.top, "progress": True}
        routed = neuron_routing(model, corpus, n_tokens=looked_for.tokens, **how)
        document = routing_document(model, routed)
    answer(output, document, text=lambda: print_routing(document), page=lambda path: write_page(document, path))
