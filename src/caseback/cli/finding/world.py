"""`caseback world`: whether a model of a board game holds the board, and whether a stone can be turned there."""

from typing import Annotated

from typer import Option

from caseback.cli.answer import answer
from caseback.cli.loading import model_of, quiet
from caseback.cli.options import Draws, OfModel, Output, Sample
from caseback.cli.with_options import with_options


@with_options
def world(
    of: OfModel = OfModel(model="spread").worded(model="A model of the game that the bundled one was trained on."),
    edits: Annotated[int, Option(min=2, help="Positions at which a stone is turned.")] = 200,
    draws: Draws = Draws(5).worded(draws="Random directions that each edit is compared with."),
    sample: Sample = Sample(count=400).worded(count="Games, 8 or more; probes are fitted on half of them."),
    output: Output = Output(),
) -> None:
    """The board behind a game's moves: read from the stream in two conventions, and changed, layer by layer."""
    with quiet():
        from caseback.behaviors import spread_games, world_model
        from caseback.reports.concepts.world_model import world_model_document
        from caseback.views.page.kinds import write_page
        from caseback.views.text.concepts.world_model import print_world_model

        model = model_of(of)
        games = spread_games(sample.count, sample.seed)
        how = {"edits": edits, "draws": draws.draws, "seed": sample.seed, "progress": True}
        document = world_model_document(model, world_model(model, games, **how))
    answer(output, document, text=lambda: print_world_model(document), page=lambda path: write_page(document, path))
