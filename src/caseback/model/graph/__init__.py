"""The graph of a model: who writes, who reads, and how the parts are named."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from caseback.model.graph.graph import Graph as Graph


def __getattr__(name: str) -> Any:
    # Loaded at first use: circuits take their names from this folder, and the graph is made of circuits' nodes.
    if name == "Graph":
        from caseback.model.graph.graph import Graph

        return Graph
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
