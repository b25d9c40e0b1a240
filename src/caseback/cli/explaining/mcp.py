"""`caseback mcp`: the techniques as tools for an agent, over the Model Context Protocol."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from caseback.cli.loading import DEFAULT_MODEL, model_of, quiet, there
from caseback.cli.options import ModelFiles, OfModel, Out
from caseback.cli.with_options import with_options
from caseback.errors import CasebackError


@with_options
def mcp(
    model: Annotated[str, Argument(callback=there, help="A bundled model, a folder or a hub id.")] = DEFAULT_MODEL,
    files: ModelFiles = ModelFiles(),
    to: Out = Out().worded(out="Where whole results and pages are written; by default caseback-results, here."),
    seconds: Annotated[float, Option(min=0.1, help="How long one call may take.")] = 120.0,
) -> None:
    """Serve an agent on standard input and output: the techniques and the explorer's questions as tools."""
    with quiet():
        try:
            from caseback.server.agent import agent_server
        except ModuleNotFoundError as missing:
            raise CasebackError(
                f"the agent's door needs {missing.name}: install it with `pip install 'caseback[mcp]'`"
            ) from None
        folder = to.out or Path("caseback-results")
        server = agent_server(model_of(OfModel(model=model, **vars(files))), folder, seconds=seconds)
    server.run("stdio")
