"""What a client may ask, as forms with bounds: text, numbers and names of parts; never a path, never code.

A change of the model is a form too, ``Change``: a part and a factor, of which the server makes an edit.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from caseback.errors import CasebackError
from caseback.jobs.budget import limit
from caseback.model.running.edits import Edit, Scale

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


class Change(Form):
    """One part times a factor: 0 takes it away, 1 leaves it, 2 doubles it.

    ``part`` says which numbers name it: a head has a layer and a head, an MLP or an attention block a layer, a neuron a
    layer and a unit.
    """

    part: Literal["head", "attention", "mlp", "neuron"]
    layer: Whole
    head: Whole | None = None
    unit: Whole | None = None
    factor: Annotated[FiniteFloat, Field(ge=-100, le=100)]

    def edit(self) -> Edit:
        """The edit that makes it."""
        needs = {"head": ("head",), "neuron": ("unit",)}.get(self.part, ())
        given = tuple(name for name in ("head", "unit") if getattr(self, name) is not None)
        if given != needs:
            raise CasebackError(f"a change of {self.part} needs {' and '.join(('layer', *needs))} and nothing else")
        site = {"head": "z", "attention": "attn_out", "mlp": "mlp_out", "neuron": "mlp_post"}[self.part]
        return Scale(site, self.factor, layer=self.layer, head=self.head, unit=self.unit)


class Prediction(Form):
    """What comes next, and what each layer would say."""

    prompt: Text
    changes: Annotated[list[Change], Field(max_length=64)] = []
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
    """What led to the answer, unit by unit."""

    max_nodes: Annotated[int, Field(ge=1, le=2000)] = 200
