"""How much is computed or held at once: one table, read where it is used, and set for a while by ``override``.

No limit changes what is computed beyond the last bits: only how many rows, numbers or bytes are in hand together, or
from what size on a job is refused as too large. What changes a result, such as the rows of a step of training, is an
option of that training and stands with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from caseback.errors import CasebackError, OutOfRange, did_you_mean
from caseback.jobs.memory import free_bytes


@dataclass(frozen=True)
class Limit:
    """One bound.

    Attributes
    ----------
    value
        On a CPU, and on every device where ``accelerator`` is None.
    unit
        What is counted.
    why
        What would be too many.
    accelerator
        On any other device.
    bytes
        What all units may take together on any other device, where the work says how large one is: beyond it more
        of them gain nothing.
    """

    value: int
    unit: str
    why: str
    accelerator: int | None = None
    bytes: int | None = None


LIMITS: Mapping[str, Limit] = MappingProxyType(
    {
        # of the memory that a device has left, for work that says how large a unit of it is
        "memory_percent": Limit(50, "percent of what is free", "others compute on the same device"),
        # passes through the model
        "sweep_tokens": Limit(
            2048,
            "tokens per pass",
            "matrix products are busy, some hundred MB at GPT-2's width on a CPU",
            2**17,
            2**33,
        ),
        "sweep_shard_tokens": Limit(2**15, "tokens of variants per shard", "what an interruption costs", 2**19),
        "gradient_tokens": Limit(
            512,
            "tokens per pass",
            "a forward pass keeps what the way back needs, in a model of 8 billion parameters 5 MB a token",
            8192,
            6 * 2**30,
        ),
        "gradient_logits": Limit(2**25, "logits per pass", "a metric of all positions keeps them for the way back"),
        "sentence_logits": Limit(
            2**22,
            "logits per pass",
            "a CPU is faster while they stay in its caches, others in large passes",
            2**26,
        ),
        "influence_tokens": Limit(2048, "tokens per pass", "inputs and gradients of every matrix are held for each"),
        "influence_window": Limit(128, "examples sorted by length", "batches of like lengths waste no padding"),
        "corpus_rows": Limit(8, "rows of a corpus per pass", "their streams at every depth are held together"),
        "stream_tokens": Limit(2048, "tokens per pass", "maps of attention at every layer are held together", 16384),
        "tables_at_once": Limit(2, "tables of a corpus", "each holds what it forms of a batch"),
        "shard_tokens": Limit(2**14, "tokens of a corpus per shard", "what an interruption costs"),
        "activation_rows": Limit(16, "rows per pass", "examples of units are read again in few passes"),
        "context_prompts": Limit(16, "prompts per pass", "logits at all their positions are held"),
        "task_prompts": Limit(16, "prompts per pass", "logits over a long vocabulary are held for each"),
        "organism_documents": Limit(100, "documents per pass", "their logits at all positions are held"),
        "interchange_prompts": Limit(64, "source prompts per pass", "what is swapped is read from their runs"),
        "attribution_prompts": Limit(16, "prompts per pass", "every writer and reader of a prompt is held", 1024),
        "constants_rows": Limit(1024, "token rows per step", "several components' constants are fitted together"),
        "constants_prompts": Limit(16, "prompts per pass", "losses of several components are measured together"),
        "pruned_circuits": Limit(16, "circuits per pass", "edges are tried together, each beyond the one before"),
        "path_tokens": Limit(16, "tokens whose paths are walked together", "each has a path of its own to hold"),
        "reagent_steps": Limit(16, "steps of all probes per pass", "a stop is looked for after each block"),
        "sampler_texts": Limit(32, "texts per pass", "a sampler's distribution over its vocabulary is held for each"),
        "jacobian_copies": Limit(32, "output directions per pass", "each has a copy of the prompt to go back through"),
        # numbers formed at once
        "lens_logits": Limit(2**24, "logits", "64 MB in float32, and a few times that while they are summed up"),
        "weight_products": Limit(2**24, "products of vectors and a vocabulary", "64 MB in float32"),
        "kl_vocabulary": Limit(1024, "vocabulary entries", "a block of the unembedding stays in a CPU's cache"),
        "embedded_tokens": Limit(8192, "vocabulary entries", "their embeddings are held while they are averaged"),
        "path_rows": Limit(512, "rows of a factored matrix", "a row is as long as the vocabulary"),
        "neuron_numbers": Limit(2**22, "numbers", "the neurons' parts of some positions"),
        "source_numbers": Limit(2**23, "numbers", "the stream by its sources, some positions at a time"),
        "decompx_numbers": Limit(2**22, "numbers", "a layer's stream by its sources"),
        "flow_numbers": Limit(2**24, "numbers", "what each head carries between some positions"),
        "circuit_numbers": Limit(2**26, "numbers", "what writers carry in several circuits run together"),
        "contraction_numbers": Limit(
            2**24, "numbers", "what writers write, some prompts or positions at a time", 2**30, 12 * 2**30
        ),
        "graph_numbers": Limit(
            2**26, "numbers", "what readers of an attribution graph read at every position, some at a time", 2**30
        ),
        "graph_stream": Limit(
            2**22,
            "numbers",
            "what writers of a graph have in the stream at every position, some at a time",
            2**28,
        ),
        "qk_map_entries": Limit(2**23, "entries of attention maps", "one map per query or key that is replaced"),
        "nearest_numbers": Limit(2**24, "numbers", "stored activations and their scores against all vectors"),
        "feature_scores": Limit(
            2**24, "scores of tokens and features", "64 MB in float32, and a few times that", 2**28
        ),
        "virtual_weights": Limit(2**22, "weights between features", "the largest of a block are looked for", 2**28),
        "probe_numbers": Limit(2**26, "numbers", "representations of sites whose probes are fitted together", 2**30),
        "walking_numbers": Limit(
            2**23, "numbers", "data of sites that are fitted together stay in a CPU's caches from step to step", 2**28
        ),
        "agreement_signs": Limit(2**24, "signs of pairs", "a rank correlation compares every pair of features"),
        "table_numbers": Limit(
            2**18,
            "numbers",
            "a slice of activations stays in a CPU's cache while several sums of it are formed",
            2**26,
        ),
        "activation_keys": Limit(2**22, "activations", "they are turned into sortable keys together"),
        # bytes and sizes beyond which something is not held, or not made
        "recorded_bytes": Limit(2**29, "bytes", "recorded bases are kept for a whole search"),
        "held_stream_bytes": Limit(
            2**33, "bytes", "the stream of all prompts between two layers; more of it is in files"
        ),
        "influence_row_bytes": Limit(2**30, "bytes", "more rows are computed again in each pass over a corpus"),
        "fingerprint_rows": Limit(16, "rows of each weight", "a model too large to be looked at whole"),
        "whole_fingerprint_bytes": Limit(2**33, "bytes", "larger models are told apart by some rows of each weight"),
        "code_bytes": Limit(2**28, "bytes", "sparse codes are sorted by feature in memory, and written as a file"),
        "influence_shard_bytes": Limit(2**26, "bytes per shard", "what an interruption costs"),
        "second_moment_bytes": Limit(2**33, "bytes", "a second moment of gradients beyond it is refused"),
        "cross_moment_bytes": Limit(
            2**30, "bytes", "cross moments of some layers of a model with all of another's; more layers, more passes"
        ),
        "factor_side": Limit(16384, "rows of a square factor", "its eigenvectors beyond it are refused"),
        "dense_projection_entries": Limit(2**28, "entries", "a dense projection beyond it is refused"),
        "page_pattern_entries": Limit(2_000_000, "entries of all patterns of a page", "it still opens at once"),
        # what one server does for all its clients
        "server_prompt_tokens": Limit(1024, "tokens of a prompt", "maps of attention grow with their square"),
        "server_body_bytes": Limit(2**18, "bytes of a request", "a prompt and its changes are a hundredth of it"),
        "server_waiting": Limit(64, "questions that wait", "whoever comes later is told to come again"),
        "server_answer_bytes": Limit(2**27, "bytes of answers", "the oldest are forgotten, and computed again"),
        "server_clients": Limit(256, "connections", "each holds a request in memory"),
        "server_jobs": Limit(256, "jobs that are remembered", "the oldest that have ended are forgotten"),
        "server_names": Limit(50, "names of dictionaries or directions", "a page has others where one types for them"),
        "server_table_rows": Limit(256, "rows of a table", "they are run together"),
        "server_table_tokens": Limit(2**14, "tokens of a table, padding included", "minutes on a CPU"),
        # what a remote model asks of a server at once
        "server_call_bytes": Limit(2**24, "bytes of a call", "edits with tensors, or a run to exchange with"),
        "server_bodies_bytes": Limit(2**27, "bytes of all bodies in hand", "what all clients may send together"),
        "server_run_tokens": Limit(4096, "tokens, padding included", "the logits of all of them are formed at once"),
        "server_run_bytes": Limit(2**26, "bytes of one answer", "it is kept with the others"),
        "server_edits": Limit(4096, "edits of a call", "each is resolved for every prompt"),
        "server_run_edits": Limit(256, "edits of one run", "they act one after another"),
        "remote_answer_bytes": Limit(2**28, "bytes of an answer", "a server that sends more is not read on"),
        # lines of files
        "corpus_lines": Limit(256, "lines", "a tokenizer is faster on many"),
        "record_lines": Limit(64, "lines", "a record of JSON is looked for in as many"),
    }
)

_overrides: ContextVar[Mapping[str, int]] = ContextVar("overrides", default=MappingProxyType({}))


def limit(name: str, device: Any = None, *, given: int | None = None, each: int | None = None) -> int:
    """One limit as it stands now.

        min(table, memory_percent of what the device has free / each)

    Parameters
    ----------
    name
        Which of ``LIMITS``.
    device
        Where the work is done: a ``torch.device`` or the name of its type; a CPU where there is none.
    given
        What a caller asked for, which goes before the table.
    each
        Bytes that one unit takes while it is in hand. The device's memory then bounds how many there are, to one at
        least; on a CPU the table's number, up to which its caches serve, stays the most.

    Raises
    ------
    CasebackError
        For a name that is not in the table.

    Examples
    --------
    >>> limit("sweep_tokens"), limit("sweep_tokens", "cuda"), limit("sweep_tokens", "cuda", given=7)
    (2048, 131072, 7)
    >>> limit("gradient_tokens", each=2**60)
    1
    """
    entry = _known(name)
    if given is not None:
        return given
    if name in (own := _overrides.get()):
        return own[name]
    on_cpu = device is None or getattr(device, "type", device) == "cpu"
    most = entry.value if on_cpu or entry.accelerator is None else entry.accelerator
    if each is None:
        return most
    free = free_bytes(device)
    rooms = [] if free is None else [free * limit("memory_percent") // 100]
    rooms += [] if on_cpu or entry.bytes is None else [entry.bytes]
    return max(1, min([most, *(room // each for room in rooms)]))


@contextmanager
def override(**values: int) -> Iterator[None]:
    """Set limits for a while, on every device; the innermost one counts.

    Parameters
    ----------
    **values
        Names of ``LIMITS`` and what they are to be, at least 0.

    Raises
    ------
    CasebackError
        For a name that is not in the table.
    OutOfRange
        For a value below 0, and for a share of the memory that is none or more than all of it.

    Examples
    --------
    >>> with override(sweep_tokens=64):
    ...     limit("sweep_tokens", "cuda")
    64
    >>> limit("sweep_tokens")
    2048
    """
    for name, value in values.items():
        _known(name)
        if value < 0:
            raise OutOfRange(f"{name}={value}: expected at least 0 {LIMITS[name].unit}")
        if name == "memory_percent" and not 1 <= value <= 100:
            there = "nothing could be held" if value == 0 else "that is more than there is"
            raise OutOfRange(f"memory_percent={value}: {there}, expected 1 to 100 {LIMITS[name].unit}")
    before = _overrides.set(MappingProxyType({**_overrides.get(), **values}))
    try:
        yield
    finally:
        _overrides.reset(before)


def _known(name: str) -> Limit:
    if name not in LIMITS:
        raise CasebackError(f"there is no limit {name!r}. {did_you_mean(name, LIMITS)}")
    return LIMITS[name]
