"""What a client may ask, as forms with bounds: text, numbers and names of parts; never a path, never code.

A change of the model is a form too, ``Change``: a part and a factor, of which the server makes an edit.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from caseback.decode.dictionaries.dictionary import Dictionary
from caseback.errors import CasebackError
from caseback.jobs.budget import limit
from caseback.localize.circuits.attribution_graphs.stream_writes import feature_name
from caseback.model.running.edits import Edit, Scale
from caseback.model.running.model import Model
from caseback.server.shelf import Shelf

Text = Annotated[str, Field(min_length=1, max_length=limit("server_body_bytes"))]
Token = Annotated[str, Field(max_length=200)] | None
Whole = Annotated[int, Field(ge=0, lt=2**31)]


class Form(BaseModel):
    """A form takes its own fields and no others."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def key(self) -> str:
        """What tells it from others."""
        return self.model_dump_json()

    def size(self) -> int:
        """Bytes in memory while it waits."""
        return len(self.key())


Factor = Annotated[FiniteFloat, Field(ge=-100, le=100)]
Name = Annotated[str, Field(min_length=1, max_length=100)]
PARTS = {
    "head": ("layer", "head", "factor"),
    "attention": ("layer", "factor"),
    "mlp": ("layer", "factor"),
    "neuron": ("layer", "unit", "factor"),
    "feature": ("dictionary", "unit", "factor"),
    "direction": ("direction", "strength"),
}
"""What each part of a model is named by, and how much it is changed by."""

MAY_BE_LEFT_OUT = {"direction": ("place",)}


class Change(Form):
    """One part times a factor, or a direction times a strength: 0 takes a part away, 1 leaves it, 2 doubles it.

    ``part`` says what names it: a head has a layer and a head, an MLP or an attention block a layer, a neuron a layer
    and a unit, a feature its dictionary and a unit. A direction is added: 0 leaves the model as it is, and its place is
    the best one where none is said.
    """

    part: Literal["head", "attention", "mlp", "neuron", "feature", "direction"]
    layer: Whole | None = None
    head: Whole | None = None
    unit: Whole | None = None
    dictionary: Name | None = None
    direction: Name | None = None
    place: Name | None = None
    factor: Factor | None = None
    strength: Factor | None = None

    def expect_whole(self) -> None:
        """Refuse a change that lacks what its part needs, or has more.

        Raises
        ------
        CasebackError
        """
        needs, more = PARTS[self.part], {"part", *MAY_BE_LEFT_OUT.get(self.part, ())}
        if {name for name in self.model_fields_set - more if getattr(self, name) is not None} != set(needs):
            raise CasebackError(f"a change of {self.part} needs {' and '.join(needs)} and nothing else")

    def edits(self, shelf: Shelf) -> list[Edit]:
        """The edits that make it; features and directions are the shelf's."""
        self.expect_whole()
        amount = self.factor if self.strength is None else self.strength
        assert amount is not None  # by expect_whole
        if self.direction is not None:
            return shelf.direction(self.direction, self.place, amount)
        if self.dictionary is not None:
            return [shelf.feature(self.dictionary, self.unit or 0, amount)]
        site = {"head": "z", "attention": "attn_out", "mlp": "mlp_out", "neuron": "mlp_post"}[self.part]
        return [Scale(site, amount, layer=self.layer, head=self.head, unit=self.unit)]

    def place_of_it(self) -> Change:
        """What is changed, without how much."""
        return self.model_copy(update={"factor": None, "strength": None})


Changes = Annotated[list[Change], Field(max_length=64)]


class Changed(Form):
    """What is asked of the model under changes of its parts."""

    changes: Changes = []

    def edits(self, shelf: Shelf) -> list[Edit]:
        """The edits that make the changes.

        Raises
        ------
        CasebackError
            For a part that is changed twice.
        """
        places = [change.place_of_it() for change in self.changes]
        if len(set(places)) < len(places):
            raise CasebackError("a part is changed twice: give each part one factor")
        return [edit for change in self.changes for edit in change.edits(shelf)]


class Prediction(Changed):
    """What comes next, and what each layer would say."""

    prompt: Text
    count: Annotated[int, Field(ge=1, le=50)] = 10


class Contrast(Form):
    """A prompt, the answer to explain, and what it is set against."""

    prompt: Text
    target: Token = None
    foil: Token = None


class Story(Contrast):
    """The causal story of an answer."""

    corrupt: Text | None = None
    depth: Literal["quick", "normal", "deep"] = "quick"


class Inputs(Contrast):
    """What each token of the prompt does to the answer, by several methods."""

    methods: Annotated[list[Annotated[str, Field(max_length=60)]], Field(min_length=1, max_length=30)] = [
        "occlusion",
        "attn_lrp",
        "gradient_x_input",
    ]


class Effects(Contrast):
    """What each head and MLP does to the answer."""

    corrupt: Text | None = None


class Graph(Contrast):
    """What led to the answer, unit by unit: neurons, or features of the dictionaries named, or of all transcoders."""

    max_nodes: Annotated[int, Field(ge=1, le=2000)] = 200
    units: Literal["neurons", "transcoders"] = "neurons"
    dictionaries: Annotated[list[Name], Field(max_length=256)] = []


class Features(Changed):
    """Which features of a dictionary are active on each token of a prompt."""

    prompt: Text
    dictionary: Name
    top: Annotated[int, Field(ge=1, le=50)] = 8


ADDRESS = ("layer", "head", "unit", "dictionary")


class Drivers(Form):
    """What drives a head's look, a neuron or a feature at one position; ``part`` says what names it, as in ``Change``.

    ``looked_at`` is a head's key, by default what it looks at most. Without ``features`` writers are heads, MLPs and
    features of the dictionary that a feature asked about is of.
    """

    prompt: Text
    part: Literal["head", "neuron", "feature"]
    layer: Whole | None = None
    head: Whole | None = None
    unit: Whole | None = None
    dictionary: Name | None = None
    pos: Whole | None = None
    looked_at: Whole | None = None
    features: bool = True
    top: Annotated[int, Field(ge=1, le=500)] = 40

    def unit_named(self, model: Model, shelf: Shelf) -> tuple[str, list[Dictionary]]:
        """The unit as techniques call it, and the dictionaries whose features are writers, its own first.

        Raises
        ------
        CasebackError
            For a unit that lacks what its part needs, or has more, and a dictionary or feature that is not there.
        """
        needs = [name for name in PARTS[self.part] if name != "factor"]
        if {name for name in ADDRESS if getattr(self, name) is not None} != set(needs):
            raise CasebackError(f"a {self.part} is named by {' and '.join(needs)} and nothing else")
        every = list(shelf.dictionaries.values()) if self.features else []
        if self.dictionary is None:
            letter, number = ("H", self.head) if self.part == "head" else ("N", self.unit)
            return f"L{self.layer}{letter}{number}", every
        own = shelf.dictionary(self.dictionary)
        return feature_name(model, own, self.unit or 0), [own, *(one for one in every if one is not own)]


class Table(Changed):
    """A task, or lines of JSON, as rows with a metric."""

    task: Name | None = None
    count: Annotated[int, Field(ge=1, le=limit("server_table_rows"))] = 24
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    lines: Text | None = None
    measure: Literal["logit_diff", "log_prob", "prob"] | None = None


class Attention(Changed):
    """Where the heads of a layer look."""

    prompt: Text
    layer: Whole = 0


class Patching(Contrast):
    """Which places carry what a prompt and its counterfactual differ in."""

    corrupt: Text
