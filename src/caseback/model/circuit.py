"""Circuits: which components of a model matter, and along which edges.

A node is a component at all positions or at one named position; an edge says that a later node reads what an
earlier one wrote, a head through its query, key or value:

    embed   L0H3   MLP 1   L1N17   L1F9   logits        L2H0@end        L0H1 -> L1H4.k        L0H1 -> L1KV0.k

Where several query heads share a key/value head, keys and values are read by that shared head, ``L1KV0``.

A ``Circuit`` is a set of such nodes and edges with scores and roles beside them. It does not know how it was found:
a discovery method, a hand, or the compiler that wrote the model.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import networkx as nx

from caseback.artifacts.artifact import load_json, save_json
from caseback.artifacts.kinds import CIRCUIT
from caseback.errors import CasebackError
from caseback.jobs.json_text import expect_form
from caseback.jobs.whole_file import whole_file
from caseback.model.arguments import checked
from caseback.model.display import Displayed
from caseback.model.graph.names import WRITTEN_AT, Name, parse_name

SLOTS = ("q", "k", "v")


@dataclass(frozen=True, order=True)
class Node:
    """One component.

    Attributes
    ----------
    kind
        ``"embed"``, ``"pos_embed"``, ``"head"``, ``"kv_head"`` (shared keys and values), ``"mlp"``, ``"neuron"``,
        ``"feature"``, ``"error"`` (what a dictionary leaves), ``"bias"`` (all that biases add) or ``"logits"``.
    layer, index
        Its layer, and its number among the layer's heads, neurons or features; -1 where it has none. Of ``"logits"``
        a token's id, or -1 for all.
    pos
        A position, by number or by a task's name for it; empty for all positions.
    site
        Where a feature or an error is written: ``"resid_pre"``, ``"attn_out"``, ``"resid_mid"`` or ``"resid_post"``;
        empty for the MLP's output.

    Examples
    --------
    >>> Node.parse("L2H0@end")
    Node(kind='head', layer=2, index=0, pos='end', site='')
    >>> str(Node("neuron", 1, 17))
    'L1N17'
    """

    kind: str
    layer: int = -1
    index: int = -1
    pos: str = ""
    site: str = ""

    @classmethod
    def parse(cls, text: str) -> Node:
        """Read what ``str`` writes.

        Raises
        ------
        CasebackError
            For text that names no component.
        """
        return cls(*parse_name(text))

    def __str__(self) -> str:
        return str(Name(self.kind, self.layer, self.index, self.pos, self.site))

    @property
    def depth(self) -> tuple[int, int]:
        """Where it stands in the order of computation: embeddings, then each layer's heads and MLP, then logits."""
        if self.kind == "logits":
            return (1_000_000, 0)
        if self.site:
            return (self.layer, 2 * WRITTEN_AT.index(self.site))
        # a head stands before the attention's output, a neuron before the MLP's
        within = {"head": 1, "kv_head": 1, "embed": 0, "pos_embed": 0, "bias": 0, "neuron": 5}
        return (self.layer, within.get(self.kind, 2 * WRITTEN_AT.index("mlp_out")))


@dataclass(frozen=True, order=True)
class Edge:
    """A later node's read of an earlier node's write, through ``slot`` where the reader is a head.

    Raises
    ------
    CasebackError
        Where the reader does not come after the writer, or the slot does not fit it.

    Examples
    --------
    >>> edge = Edge.parse("L0H1 -> L1H4.k")
    >>> edge.source.kind, edge.target.layer, edge.slot, str(edge)
    ('head', 1, 'k', 'L0H1 -> L1H4.k')
    """

    source: Node
    target: Node
    slot: str = ""

    def __post_init__(self) -> None:
        if self.source.depth >= self.target.depth:
            raise CasebackError(f"no edge {self.source} -> {self.target}: the reader must come after the writer")
        slots = {"head": SLOTS, "kv_head": ("k", "v")}.get(self.target.kind, ("",))
        if self.slot not in slots or self.source.kind == "kv_head":
            raise CasebackError(
                f"edge {self.source} -> {self.target} has slot {self.slot!r}: an edge into a head ends in its q, k or "
                "v, one into a shared key/value head in k or v, any other has no slot; shared heads write nothing"
            )

    @classmethod
    def parse(cls, text: str) -> Edge:
        """Read what ``str`` writes."""
        source, arrow, target = text.partition(" -> ")
        if not arrow:
            raise CasebackError(f"{text!r} is no edge: expected 'writer -> reader', such as 'L0H1 -> L1H4.k'")
        name, at, pos = target.partition("@")
        name, _, slot = name.partition(".")
        return cls(Node.parse(source), Node.parse(name + at + pos), slot)

    def __str__(self) -> str:
        name, at, pos = str(self.target).partition("@")
        return f"{self.source} -> {name}{'.' + self.slot if self.slot else ''}{at}{pos}"


@dataclass(frozen=True, eq=False)
class Circuit(Displayed):
    """Nodes and edges of one model that matter for something.

    Attributes
    ----------
    edges, nodes
        Members. The ends of an edge are always among the nodes.
    scores
        A number for nodes and edges, members or not, as a discovery method gave them.
    roles
        What a node does, in words: ``"previous token"``, ``"name mover"``.
    about
        How it was made: model, task, method, citation; anything that JSON can hold.

    Examples
    --------
    >>> induction = Circuit.of("embed -> L0H1.v", "L0H1 -> L1H4.k", "L1H4 -> logits", roles={"L1H4": "induction"})
    >>> len(induction), "L1H4" in induction, induction.iou(Circuit.of("L1H4 -> logits"))
    (3, True, 0.3333333333333333)
    """

    edges: frozenset[Edge] = frozenset()
    nodes: frozenset[Node] = frozenset()
    scores: Mapping[Node | Edge, float] = field(default_factory=dict, repr=False)
    roles: Mapping[Node, str] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for kind, members in ((Edge, self.edges), (Node, self.nodes)):
            if others := [one for one in members if not isinstance(one, kind)]:
                raise CasebackError(
                    f"{others[0]!r} is no {kind.__name__}: Circuit.of reads names, such as 'L0H1 -> logits'"
                )
        ends = {end for edge in self.edges for end in (edge.source, edge.target)}
        object.__setattr__(self, "edges", frozenset(self.edges))
        object.__setattr__(self, "nodes", frozenset(self.nodes) | ends)

    @classmethod
    def of(cls, *parts: str | Node | Edge, roles: Mapping[str | Node, str] | None = None, **about: Any) -> Circuit:
        """A circuit from nodes and edges, as objects or as text.

        Parameters
        ----------
        *parts
            Text with an arrow is an edge.
        roles
            By node.
        **about
            How it was made.
        """
        read = [_part(part) for part in parts]
        return cls(
            frozenset(part for part in read if isinstance(part, Edge)),
            frozenset(part for part in read if isinstance(part, Node)),
            roles={_node(node): role for node, role in (roles or {}).items()},
            about=about,
        )

    def __len__(self) -> int:
        """How many edges."""
        return len(self.edges)

    def __repr__(self) -> str:
        return f"Circuit({len(self.nodes)} nodes, {len(self.edges)} edges)"

    def __contains__(self, part: str | Node | Edge) -> bool:
        part = _part(part)
        return part in (self.edges if isinstance(part, Edge) else self.nodes)

    def __eq__(self, other: object) -> bool:
        """Same nodes and edges, whatever their scores and roles."""
        return isinstance(other, Circuit) and (self.nodes, self.edges) == (other.nodes, other.edges)

    def __hash__(self) -> int:
        return hash((self.nodes, self.edges))

    def __or__(self, other: Circuit) -> Circuit:
        return self._with(other, frozenset.union)

    def __and__(self, other: Circuit) -> Circuit:
        return self._with(other, frozenset.intersection)

    def __sub__(self, other: Circuit) -> Circuit:
        """The edges that the other lacks, with their ends, and the nodes that it lacks."""
        return self._with(other, frozenset.difference)

    def _with(self, other: Circuit, join: Callable[..., frozenset]) -> Circuit:
        return Circuit(
            join(self.edges, other.edges),
            join(self.nodes, other.nodes),
            {**other.scores, **self.scores},
            {**other.roles, **self.roles},
            {**other.about, **self.about},
        )

    @checked
    def iou(self, other: Circuit, of: str = "edges") -> float:
        """Shared members over all members, of ``"edges"`` or ``"nodes"``; 1 where both have none."""
        if of not in ("edges", "nodes"):
            raise CasebackError(f"no overlap of {of!r}: expected 'edges' or 'nodes'")
        mine, theirs = getattr(self, of), getattr(other, of)
        union = mine | theirs
        return len(mine & theirs) / len(union) if union else 1.0

    def at_all_positions(self) -> Circuit:
        """The same circuit without its positions; of several scores the largest in size is kept."""
        scores: dict[Node | Edge, float] = {}
        for part, score in self.scores.items():
            bare = _bare(part)
            if abs(score) >= abs(scores.get(bare, 0.0)):
                scores[bare] = score
        return Circuit(
            frozenset(_bare(edge) for edge in self.edges),
            frozenset(_bare(node) for node in self.nodes),
            scores,
            {_bare(node): role for node, role in self.roles.items()},
            self.about,
        )

    @checked
    def top(self, count: int, *, absolute: bool = True) -> Circuit:
        """The ``count`` edges of highest score, absolute or signed; ties go to the earlier edge.

        Raises
        ------
        CasebackError
            Where fewer edges have a score, or none is asked for.
        """
        scored = [(edge, score) for edge, score in self.scores.items() if isinstance(edge, Edge)]
        if not 0 < count <= len(scored):
            raise CasebackError(f"{count} edges asked for: expected 1 to {len(scored)}, as many as have a score")
        ranked = sorted(scored, key=lambda pair: (-(abs(pair[1]) if absolute else pair[1]), _order(pair[0])))
        return replace(self, edges=frozenset(edge for edge, _ in ranked[:count]), nodes=frozenset())

    def to_networkx(self) -> nx.MultiDiGraph:
        """A directed graph whose nodes are node names and whose edge keys are slots; for drawing and for GraphML."""
        graph = nx.MultiDiGraph(**{key: _plain(value) for key, value in self.about.items()})
        for node in sorted(self.nodes, key=_order):
            facts = {"kind": node.kind, "layer": node.layer, "index": node.index, "pos": node.pos}
            graph.add_node(str(node), **facts, **_score(self.scores, node), **_role(self.roles, node))
        for edge in sorted(self.edges, key=_order):
            graph.add_edge(str(edge.source), str(edge.target), key=edge.slot, **_score(self.scores, edge))
        return graph

    @checked
    def to_graphml(self, path: str | Path) -> None:
        """Write GraphML, which graph editors open."""
        text = "\n".join(nx.generate_graphml(self.to_networkx()))
        _write(Path(path), text)

    def to_json(self) -> dict[str, Any]:
        """Plain data: nodes and edges as text, members and others that have a score."""
        return {
            "format": CIRCUIT.format,
            "nodes": [str(node) for node in sorted(self.nodes, key=_order)],
            "edges": [str(edge) for edge in sorted(self.edges, key=_order)],
            "scores": {str(part): score for part, score in sorted(self.scores.items(), key=lambda p: _order(p[0]))},
            "roles": {str(node): role for node, role in sorted(self.roles.items(), key=lambda p: _order(p[0]))},
            "about": dict(self.about),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Circuit:
        """Read what ``to_json`` gives.

        Raises
        ------
        CasebackError
            For data of another format.
        """
        if not isinstance(data, Mapping) or data.get("format") != CIRCUIT.format:
            raise CasebackError(f"this is no circuit: expected JSON whose 'format' is {CIRCUIT.format!r}")
        with expect_form("this is no circuit, its JSON is of another form"):
            return cls(
                frozenset(map(Edge.parse, data["edges"])),
                frozenset(map(Node.parse, data["nodes"])),
                {_part(text): float(score) for text, score in data["scores"].items()},
                {Node.parse(text): str(role) for text, role in data["roles"].items()},
                dict(data["about"]),
            )

    @checked
    def save(self, path: str | Path) -> None:
        """Write JSON."""
        save_json(self.to_json(), CIRCUIT, path)

    @classmethod
    def load(cls, path: str | Path) -> Circuit:
        """Read what ``save`` wrote.

        Raises
        ------
        LoadError
            For a file that holds no circuit, or a damaged one.
        """
        return cls.from_json(load_json(path, CIRCUIT))


def _node(node: str | Node) -> Node:
    return Node.parse(node) if isinstance(node, str) else node


def _part(part: str | Node | Edge) -> Node | Edge:
    if isinstance(part, Node | Edge):
        return part
    if not isinstance(part, str):
        raise CasebackError(f"{part!r} is no part of a circuit: expected names such as 'L0H1' or 'L0H1 -> logits'")
    return Edge.parse(part) if " -> " in part else Node.parse(part)


def _bare(part: Any) -> Any:
    if isinstance(part, Edge):
        return Edge(_bare(part.source), _bare(part.target), part.slot)
    return replace(part, pos="")


def _order(part: Node | Edge) -> tuple:
    if isinstance(part, Edge):
        return (*_order(part.target), part.slot, *_order(part.source))
    return (*part.depth, part.index, part.pos, part.kind, part.site)


def _score(scores: Mapping, part: Node | Edge) -> dict[str, float]:
    return {"score": float(scores[part])} if part in scores else {}


def _role(roles: Mapping, node: Node) -> dict[str, str]:
    return {"role": roles[node]} if node in roles else {}


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int | float) else json.dumps(value)


def _write(path: Path, text: str) -> None:
    with whole_file(path) as draft:
        draft.write_text(text, encoding="utf-8")
