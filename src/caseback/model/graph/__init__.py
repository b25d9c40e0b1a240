"""The graph of a model: who writes, who reads, and how the parts are named."""

from caseback.model.graph.graph import Graph as Graph
