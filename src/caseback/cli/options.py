"""The options that more than one command has, each written once, in groups that a command takes as one parameter.

    @with_options
    def trace(prompt: ..., measured: Measured = Measured(metric="prob"), output: Output = Output()) -> None: ...

Each field of a group is an option with its name, its help and the default of a command that says nothing else. A
command's own defaults are those of the instance that it gives; its own help, where the words here do not say enough,
are given with `Measured().worded(foil="...")`. Take the smallest group that has what the command uses: no command
offers an option that it would ignore. What one command alone has stands in its function.

Where a flag means one thing in one command and several of it in another (``--head``, ``--target``, ``--corrupt``), both
stand here.
"""

import os
from pathlib import Path
from typing import Annotated, Any

from typer import Option

from caseback.cli.files import not_a_page, writable
from caseback.cli.group import Group
from caseback.cli.loading import DEFAULT_MODEL, there
from caseback.cli.looked_for import Kinds as Kinds
from caseback.cli.looked_for import Tokens as Tokens
from caseback.cli.looked_for import TreebankFile as TreebankFile


class ModelFiles(Group):
    """Which of a model's files are read, and which may run code."""

    gguf: Annotated[
        str | None, Option("--gguf", metavar="FILE", help="Read this file, in GGUF, of the model's folder or hub id.")
    ] = None
    allow_pickle: Annotated[
        bool, Option("--allow-pickle", help="Read pickled weights, which can run code: of whom you trust.")
    ] = False
    trust_remote_code: Annotated[
        bool, Option("--trust-remote-code", help="Run the Python code that comes with the model: read it first.")
    ] = False

    @property
    def how(self) -> dict[str, Any]:
        """What ``load`` is given of them."""
        of = {"allow_pickle": self.allow_pickle, "trust_remote_code": self.trust_remote_code}
        return {"gguf_file": self.gguf, **of}


class ModelName(Group):
    """Which model, by name."""

    model: Annotated[str, Option("--model", "-m", callback=there, help="A bundled model, a folder or a hub id.")] = (
        DEFAULT_MODEL
    )


class OfModel(ModelFiles, ModelName):
    """Which model, and which of its files."""


class Json(Group):
    """The result for machines."""

    as_json: Annotated[bool, Option("--json", help="Print the result as JSON.")] = False


class Output(Json):
    """The result for machines, and as a page."""

    html: Annotated[Path | None, Option(callback=writable, help="Write a page for the browser to this file.")] = None


class Save(Group):
    """The artifact that a command fits or finds."""

    save: Annotated[Path | None, Option(callback=not_a_page, help="Write what is fitted to this file.")] = None


class FittedLens(Group):
    """A lens that was fitted before."""

    lens: Annotated[Path | None, Option(help="A fitted lens.")] = None


class Ids(Group):
    """How prompts are written."""

    ids: Annotated[bool, Option("--ids", help="Prompts are token ids such as 5,1,2.")] = False


class Contrast(Group):
    """The token that is explained, and what it is contrasted with."""

    target: Annotated[
        str | None,
        Option(help="The token explained; by default the model's first choice (after the first of several)."),
    ] = None
    foil: Annotated[str | None, Option(help="Its contrast; by default the model's next choice.")] = None


class Measured(Contrast):
    """What is measured of a prediction."""

    metric: Annotated[str, Option(help="logit_diff (of target and foil), logit, prob or log_prob.")] = "logit_diff"


class Followed(Group):
    """Tokens whose rank is followed."""

    target: Annotated[list[str] | None, Option(help="A token whose rank is followed; may be repeated.")] = None


class Counterfactual(Group):
    """The prompt with another answer."""

    corrupt: Annotated[
        str | None, Option(help="The same prompt with another answer, token against token; ids with --ids.")
    ] = None


class Counterfactuals(Group):
    """One prompt with another answer for each prompt."""

    corrupt: Annotated[list[str] | None, Option(help="A counterfactual for resample; may be repeated.")] = None


class Ablation(Group):
    """What ablated parts carry."""

    ablation: Annotated[str, Option(help="What stands in for an ablated component.")] = "zero"


class Site(Group):
    """The site that is read or changed."""

    site: Annotated[str, Option(help="Where: resid_pre, resid_post, mlp_out, attn_out, z ...")] = "resid_post"


class Layer(Group):
    """One layer."""

    layer: Annotated[int | None, Option(min=0, help="Which layer.")]


class OneUnit(Layer):
    """One head or neuron of a layer."""

    head: Annotated[int | None, Option(min=0, help="Which head.")] = None
    neuron: Annotated[int | None, Option(min=0, help="Which neuron of the MLP.")] = None


class NamedUnits(Group):
    """Some heads, or some neurons, by name."""

    head: Annotated[
        list[str] | None,
        Option(
            help="Of the logit lens: a head whose write is read, such as L3H2, or 2 for that head of every layer; may "
            "be repeated."
        ),
    ] = None
    neuron: Annotated[list[str] | None, Option(help="The same for a neuron, such as L3N17 or 17; may be repeated.")] = (
        None
    )


class Units(Group):
    """Units of a site."""

    units: Annotated[
        str | None, Option(help="Neurons, or entries of the site's last dimension, such as 0,5-9; all by default.")
    ] = None


class Columns(Group):
    """The columns of a file of labeled texts."""

    text: Annotated[str, Option(help="The column of texts.")] = "text"
    label: Annotated[str, Option(help="The column of labels.")] = "label"
    group: Annotated[
        str | None, Option(help="The column of groups, of which none is both fitted to and judged on.")
    ] = None


class OtherModel(Group):
    """A second model."""

    other_model: Annotated[str | None, Option(help="Another model of the same tokenizer.", show_default=False)] = None


class Toward(Group):
    """Which of two labels a direction points to."""

    toward: Annotated[str | None, Option(help="The label that directions point to; by default the later one.")] = None


class Mean(Group):
    """Texts as the mean of their tokens."""

    mean: Annotated[bool, Option("--mean", help="Read the mean over a text's tokens, but the first, instead.")] = False


class Layers(Group):
    """Some layers."""

    layers: Annotated[str | None, Option(help="Such as 0,2-4; all by default.")] = None


class Places(Layers):
    """Layers and positions."""

    pos: Annotated[str | None, Option(help="Positions such as 2-5,-1; all by default.")] = None


class ProgramParts(Group):
    """What a learned program may be made of."""

    layers: Annotated[int, Option(min=1, help="Layers of heads and lookups.")] = 2
    heads: Annotated[int, Option(min=0, help="Heads a layer that fetch a value.")] = 2
    counters: Annotated[int, Option(min=0, help="Heads a layer that count.")] = 1
    lookups: Annotated[int, Option(min=0, help="Tables a layer, of two variables.")] = 0


class SteeredTokens(Group):
    """Which part of a text is changed."""

    pos: Annotated[str, Option(help="Which tokens: all, prompt or generated.")] = "all"


class HeadPlaces(Places):
    """Layers, positions and heads."""

    heads: Annotated[str | None, Option(help="Such as 0,2-4; all by default.")] = None


class Relation(Group):
    """Facts of one sort."""

    relation: Annotated[str, Option(help="capital, language … or a JSON file with samples and prompt_templates.")] = (
        "capital"
    )

    @property
    def name(self) -> str:
        """What the facts are called together."""
        return Path(self.relation).stem if os.path.isfile(self.relation) else self.relation


class Window(Group):
    """Layers that are changed together."""

    window: Annotated[int | None, Option(min=1, help="Layers patched together.")] = None


class By(Group):
    """What a result is split by."""

    by: Annotated[str | None, Option(help="What the result is split by.")] = None


class Top(Group):
    """How much is listed."""

    top: Annotated[int, Option(min=1, help="How many of the largest are listed.")] = 10


class Method(Group):
    """One method."""

    method: Annotated[str, Option(help="By which method; --list names them.")]


class Threshold(Group):
    """How light an edge may be."""

    threshold: Annotated[float | None, Option(help="Edges of less are cut.")] = None


class Methods(Group):
    """Methods side by side."""

    method: Annotated[str | None, Option(help="Methods by name, parted by commas, or all; --list names them.")] = None


class Listed(Group):
    """The methods themselves."""

    listed: Annotated[bool, Option("--list", help="Name the methods, and do nothing else.")] = False


class Subject(Group):
    """What a prompt speaks of."""

    subject: Annotated[
        str, Option(help="The text in the prompt that gets noise (positions with --ids).", show_default=False)
    ]


class CorpusFile(Group):
    """A file of texts."""

    corpus: Annotated[
        Path | None,
        Option(help="Training texts, one a line, or JSON (.json, .jsonl); not needed where --store is complete."),
    ] = None


class Steps(Group):
    """How long something is trained."""

    steps: Annotated[int | None, Option(min=1, help="Steps of training.")] = None


class BatchSize(Group):
    """How many rows are computed at once."""

    batch_size: Annotated[int | None, Option(min=1, help="Rows of a batch.")] = None


class Generate(Group):
    """How much the model goes on to write."""

    generate: Annotated[int, Option(min=0, help="How many tokens are generated.")] = 0


class Seed(Group):
    """What random draws follow from."""

    seed: Annotated[int, Option(min=0, help="What is drawn at random follows from it.")] = 0


class Draws(Group):
    """How much chance a result is compared with."""

    draws: Annotated[int, Option(min=2, help="Random draws that it is compared with.")] = 20


class Sample(Seed):
    """Prompts drawn from a task."""

    count: Annotated[int, Option(min=1, help="How many prompts are drawn.")] = 100


class Out(Group):
    """A folder for a result of several files."""

    out: Annotated[Path | None, Option(help="The folder to write; an interrupted run found there goes on.")] = None


class MaxLength(Group):
    """A corpus read in pieces."""

    max_length: Annotated[int | None, Option(min=1, help="Tokens of a row at most.")] = None


class Stored(MaxLength):
    """A corpus read in pieces, and a folder for what was collected from it."""

    store: Annotated[
        Path | None, Option(help="A folder that keeps what was collected from the corpus, to go on from.")
    ] = None


class Threads(Group):
    """How many threads compute."""

    threads: Annotated[int | None, Option(min=1, help="Threads of each worker; by default torch's, shared out.")] = None


class Launched(Threads):
    """Where a job's shards are done."""

    workers: Annotated[int, Option(min=0, help="How many processes; on Ray 0 for as many as there is room for.")] = 1
    on: Annotated[str, Option(help="here, ray, or a Ray address such as ray://head:10001.")] = "here"


class AmongWorkers(Group):
    """Which of a job's workers this is."""

    worker: Annotated[int | None, Option(min=0, help="Which one; by default as RANK or SLURM_PROCID says.")] = None
    workers: Annotated[
        int | None, Option(min=1, help="Of how many; by default as WORLD_SIZE or SLURM_NTASKS says.")
    ] = None


class OnePos(Group):
    """One position."""

    pos: Annotated[int, Option(help="The prompt's position; by default its last.")] = -1


class Skip(Group):
    """What does not count of a row."""

    skip: Annotated[int, Option(min=0, help="First positions of each row that do not count.")] = 0


class OfTask(Group):
    """A task by name."""

    task: Annotated[str | None, Option(help="A task, as `caseback tasks` lists them.")] = None


class Resume(Group):
    """Long work that goes on after an interruption."""

    checkpoint: Annotated[Path | None, Option(help="A file to go on from after an interruption.")] = None


class OnKnownSources(Group):
    """Methods tried where the answer is known."""

    judge: Annotated[bool, Option("--judge", help="No prompt: how often each method finds a source that is known.")] = (
        False
    )


class DirectionsFile(Group):
    """Directions that were found before."""

    directions: Annotated[
        Path | None, Option(help="Directions from a file, as save_directions wrote them, or a GGUF control vector.")
    ] = None


class DirectionsFiles(Group):
    """Several files of directions."""

    directions: Annotated[
        list[Path] | None,
        Option(help="Directions that can be added, as save_directions wrote them; give it again for each."),
    ] = None


class Judging(Group):
    """How much is judged."""

    judge: Annotated[
        str,
        Option(help="faithfulness (with the chosen ablation), full, or seconds, within which more is judged."),
    ] = "faithfulness"
    sets: Annotated[int, Option(min=1, help="Random sets for completeness and minimality.")] = 5
