"""The options that commands of dictionaries share, or that say together what kind of dictionary is meant."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

from typer import Option

from caseback.cli.group import Group
from caseback.cli.inputs import numbers
from caseback.errors import CasebackError


class Force(Group):
    """Dictionaries of another model."""

    force: Annotated[bool, Option("--force", help="Read dictionaries of a model of another name.")] = False


class Dictionaries(Force):
    """Dictionaries whose features are nodes."""

    dictionaries: Annotated[
        list[Path] | None,
        Option(help="A dictionary, one for each layer and site, or a set of them; give it again for each."),
    ] = None

    def expect_forced(self) -> None:
        """Refuse ``--force`` without anything that it reads.

        Raises
        ------
        CasebackError
        """
        if self.force and not self.dictionaries:
            raise CasebackError("--force reads --dictionaries of a model of another name: give some, or leave it out")


class Grain(Dictionaries):
    """What the nodes of a circuit are."""

    nodes: Annotated[
        str, Option(help="What nodes are: heads (and MLPs), neurons (and heads), or features of --dictionaries.")
    ] = "heads"
    strongest: Annotated[int, Option(min=1, help="How many nodes, with --nodes features or neurons.")] = 60
    spans: Annotated[
        bool, Option("--spans", help="Edges between heads and MLPs at the spans that the task names, each by itself.")
    ] = False


class SomeFeatures(Group):
    """Features by number."""

    some: Annotated[str | None, Option("--features", help="Which features: 3,17.")] = None

    @property
    def chosen(self) -> list[int] | None:
        """Their numbers; None for none named."""
        return numbers(self.some, "--features")


class NotesFile(Group):
    """What people say of units."""

    notes: Annotated[Path | None, Option(help="A file of people's notes, as caseback label writes it.")] = None


class Sparsity(Group):
    """How few features are active, and how they are grouped."""

    k: Annotated[
        str | None, Option("--k", help="Active features a token, 32 by default; several parted by commas.")
    ] = None
    l0: Annotated[
        float | None, Option("--l0", help="The target of active features a token, where activity is penalized.")
    ] = None
    experts: Annotated[
        int | None, Option(min=1, help="Of switch: experts that share the features out, 8 by default.")
    ] = None
    group_size: Annotated[
        int | None, Option(min=1, help="Of group_topk: features of a group, active together, 2 by default.")
    ] = None

    def expect_used(self, options: Sequence[Sequence[str]]) -> None:
        """Refuse what no architecture, of which each has some options, would heed.

        Raises
        ------
        CasebackError
        """
        for flag, name, value in (
            ("--experts", "n_experts", self.experts),
            ("--group-size", "group_size", self.group_size),
        ):
            if value is not None and not any(name in own for own in options):
                of = "switch" if name == "n_experts" else "group_topk"
                raise CasebackError(f"{flag} is for {of}: expected --architecture {of}, or leave it out")

    def recipes(self, options: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        """For an architecture with some options, a label and what its recipe is given, one for each ``k``."""
        if "k" not in options:
            l0 = self.l0 if self.l0 else 32.0
            yield format(l0, "g"), {"l0": l0}
            return
        more = {"n_experts": self.experts, "group_size": self.group_size}
        own = {name: value for name, value in more.items() if name in options and value is not None}
        for k in numbers(self.k, "--k") or [32]:
            yield str(k), {"options": {"k": k, **own}}
