"""What one public function gives and another takes: each made by its own door's valid call, when it is first asked for.

Three kinds, of which no door needs a line of its own: an object of a class comes from a function that is annotated to
return one; the parts of a class that holds data are those of such an object; a document comes from the function that
its kind names. A result that is labeled by its dimensions alone is named in ``GIVEN_BY``.
"""

import contextlib
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from caseback.reports.document import DocumentKind
from caseback.views.page.kinds import PAGES

Giver = str | tuple[str, Any] | list[str]
"""The end of a door's name; with a key, one thing of what it gives; in a list, several such."""

# who gives what a view draws or a reader reads: by the end of a door's name, an argument and who gives it
GIVEN_BY: dict[str, dict[str, Giver]] = {
    "save_subspace": {"subspace": "distributed.das"},
    "save_probe": {"probe": "linear_probe.linear_probe"},
    "save_eraser": {"eraser": "leace.leace"},
    "save_directions": {"directions": "find.find_directions"},
    "save_jacobian_lens": {"lens": "fit_jacobian_lens"},
    "merge_jacobian_lenses": {"lenses": ["fit_jacobian_lens", "fit_jacobian_lens"]},
    "save_tuned_lens": {"lens": "fit_tuned_lens"},
    "top_tokens": {"path": ("paths.paths", 0)},
    "share_waterfall": {"shares": "direct_shares.direct_shares"},
    "taken_back": {"writes": "erased_writes"},
    "in_common": {"neighbors": "nearest.nearest"},
    "strongest_places": {"patching": ("explain.explain", "patching")},
    "ablation_map": {"effects": "ablation.ablate"},
    "trace_maps": {"result": "causal_trace"},
    "comparison.comparison": {"scores": "methods.attribute"},
    "technique_row": {"technique": ("registry.techniques", 0)},
    "TrainingMethod": {"technique": ("registry.techniques", 0)},
    "figure.page.": {"figure": "heatmap.heatmap"},
    "frontier_markdown": {"table": "frontier_table"},
    "transfer_markdown": {"table": "transfer_table"},
    "print_erasure": {"document": ("erasure_report", 0)},
    "print_editing": {"document": "editing_document"},
    "print_node_circuit": {"document": ("node_circuit.node_circuit", 1)},
    "print_span_circuit": {"document": ("span_circuit.span_circuit", 1)},
    "span_circuit_html": {"document": ("span_circuit.span_circuit", 1)},
    "print_direct_shares": {"shares": "direct_shares.direct_shares"},
    "print_examples": {"top": "top_examples"},
    "print_factors": {"factors": "neuron_factors"},
    "print_scored": {"scores": "bm25", "top": "top_examples"},
    "print_ablation": {"effects": "ablation.ablate"},
    "print_interchanges": {"accuracy": "interchange_map"},
    "print_patching": {"result": "patching.patch"},
    "print_trace": {"result": "causal_trace", "maps": "trace_maps"},
    "print_steering": {"document": "steering_document"},
    "print_directions": {"document": ("directions_report", 0)},
    "directions_html": {"document": ("directions_report", 0)},
    "erasure_html": {"document": ("erasure_report", 0)},
    "paths.effects": {"document": "flow_graph_document"},
    "strongest_paths": {"document": "flow_graph_document"},
    "circuit_graph": {"circuit": "graph_circuit"},
    "edge_influence": {"graph": "attribution_graph"},
    "graph_circuit": {"graph": "attribution_graph"},
    "graph_effects": {"graph": "attribution_graph"},
    "graph_scores": {"graph": "attribution_graph"},
    "head_loadings": {"graph": "attribution_graph"},
    "head_moves": {"graph": "attribution_graph"},
    "node_influence": {"graph": "attribution_graph"},
    "prune_graph": {"graph": "attribution_graph"},
    "query_key_attribution": {"graph": "attribution_graph"},
    "save_graph": {"graph": "attribution_graph"},
    "print_behaviors": {"rows": "behavior_rows"},
    "argument_function_document": {"added": "argument_function"},
    "argument_function_html": {"document": "argument_function_document"},
    "added_words": {"document": "argument_function_document"},
    "task_words": {"document": "argument_function_document"},
    "memorization_document": {"known": "memorization.memorization"},
    **dict.fromkeys(
        ("memorization_html", "print_memorization", "verbatim_words", "layer_words"),
        {"document": "memorization_document"},
    ),
    "world_model_document": {"read": "world_model.world_model"},
    **dict.fromkeys(
        ("world_model_html", "print_world_model", "board_words", "turned_words"), {"document": "world_model_document"}
    ),
    "in_context_learner_document": {"compared": "in_context_learner.in_context_learner"},
    **dict.fromkeys(
        ("in_context_learner_html", "print_in_context_learner", "learning_words", "follows_words"),
        {"document": "in_context_learner_document"},
    ),
    "context_memory_document": {"dial": "context_memory"},
    "context_memory_html": {"document": "context_memory_document"},
    "claims_words": {"document": "context_memory_document"},
    "dial_words": {"dial": ("context_memory_document", "dials", 0)},
    "binding_document": {"table": "binding_ids"},
    **dict.fromkeys(
        ("binding_html", "print_binding", "texts_words", "binding_words"), {"document": "binding_document"}
    ),
    "heuristics_document": {"table": "arithmetic_heuristics"},
    **dict.fromkeys(
        ("heuristics_html", "print_heuristics", "sums_words", "rules_words"), {"document": "heuristics_document"}
    ),
    "needle_document": {"table": "needle_test"},
    **dict.fromkeys(("needle_html", "print_needle", "found_words", "bringers_words"), {"document": "needle_document"}),
    "requests_document": {"patched": "request_patching"},
    "requests_html": {"document": "requests_document"},
    "pairs_words": {"document": "requests_document"},
    "third_words": {"document": "requests_document"},
    "judged_document": {"judged": "judge_explanations"},
    **dict.fromkeys(
        ("judged_explanations_html", "print_judged_explanations", "judged_words"), {"document": "judged_document"}
    ),
    "routing_document": {"routed": "neuron_routing"},
    "routing_html": {"document": "routing_document"},
    "print_routing": {"document": "routing_document"},
    "routing_words": {"document": "routing_document"},
    "facts_document": {"flow": "fact_flow"},
    "facts_html": {"document": "facts_document"},
    "votes_words": {"votes": ("facts_document", "votes")},
    "map_words": {"fitted": ("facts_document", "map")},
    "low_rank_words": {"of_rank": ("facts_document", "low_rank")},
    "stories_html": {"document": "stories"},
    "print_stories": {"document": "stories"},
    "counts_words": {"document": "stories"},
    "shared_words": {"document": "stories"},
    "answer_rows": {"document": "answer_stories"},
    "attributed_prompts_html": {"document": "attributions_over_prompts"},
    "print_attributed_prompts": {"document": "attributions_over_prompts"},
    "beyond_chance": {"method": ("attributions_over_prompts", "methods", 0)},
    "prompts_words": {"document": "attributions_over_prompts"},
    "context_document": {"reliance": "pecore"},
    **dict.fromkeys(
        ("drivers_html", "print_drivers", "driver_columns", "driver_rows", "driver_words"), {"document": "unit_drivers"}
    ),
    "context_html": {"document": "context_document"},
    "print_context": {"document": "context_document"},
    "context_words": {"document": "context_document"},
    "cue_rows": {"document": "context_document"},
    "selected_words": {"document": "context_document"},
    "plays_words": {"document": "world_model_document"},
    "truth_document": {"report": "truth_detection"},
    "truth_html": {"document": "truth_document"},
    "print_truth": {"document": "truth_document"},
    "statements_words": {"document": "truth_document"},
    "verdict_words": {"document": "truth_document"},
    "left_out_words": {"document": "truth_document"},
    **dict.fromkeys(
        ("emergence_html", "print_emergence", "arisen_words", "missing_words"), {"document": "emergence_document"}
    ),
    "universal_families": {"matched": "universality.universality", "own": "atlas.atlas", "others": "atlas.atlas"},
    "universality_document": {"matched": "universality.universality"},
    **dict.fromkeys(
        ("universality_html", "print_universality", "universal_words"), {"document": "universality_document"}
    ),
    "behavior_document": {"reports": ["measure.behavior"]},
    **dict.fromkeys(("unit_table", "save_unit_table"), {"atlas": "atlas.atlas"}),
    "compare_atlases": {"first": "atlas.atlas", "second": "atlas.atlas"},
    "atlas_comparison_document": {"comparison": "compare_atlases"},
    "atlas_comparison_html": {"document": "atlas_comparison_document"},
    "print_atlas_comparison": {"document": "atlas_comparison_document"},
    "compared_words": {"document": "atlas_comparison_document"},
    "overlap.overlap": {"first": "measure.behavior", "second": "measure.behavior"},
    "print_judged": {"result": "known_source_test"},
    "print_patchscope": {"result": "patchscope.patchscope"},
    "print_task_examples": {"shown": "task_examples"},
    "print_tasks": {"rows": "task_rows"},
    "print_techniques": {"rows": "technique_rows"},
    "print_weights": {"result": "weights_as_words"},
}
# a class that functions give several of
ONE_OF: dict[str, Giver] = {"Sentence": ("conllu", 0)}
# who writes the file that another reads, and of what where it writes several kinds
WRITTEN_BY: dict[str, str | tuple[str, str, Giver]] = {
    "load_mapping": "save_mapping",
    "load_eraser": "save_eraser",
    "load_oracle_eraser": ("save_eraser", "eraser", "quadratic_leace"),
    "load_atlas": "save_atlas",
    "load_emergence": "save_emergence",
    "load_subspace": "save_subspace",
    "load_probe": "save_probe",
    "load_directions": "save_directions",
    "load_control_vector": "save_control_vector",
    "load_jacobian_lens": "save_jacobian_lens",
    "load_tuned_lens": "save_tuned_lens",
    "load_activating": "activating_inputs",
    "open_store": "collect.collect",
    "open_collection": "collect.collect",
    "load_reft": "save_reft",
    "load_key_moments": "save_key_moments",
    "load_knowledge_edit": "save_knowledge_edit",
    "load_mend": "save_mend",
    "load_dictionary": "save_dictionary",
    "load_graph": "save_graph",
    "load_supernodes": "save_graph",
    "load_attention_lens": ("save_lens", "lens", "fit_attention_lens"),
    "load_future_prompt": ("save_lens", "lens", "fit_future_prompt"),
}
PLACES = ("path", "folder", "store")


class Results:
    """Results of doors, shared by all that take them.

    Parameters
    ----------
    doors
        Public functions by name.
    call
        Calls a door as its valid call does, but for some arguments.
    room
        A folder to write in.
    """

    def __init__(
        self, doors: Mapping[str, Callable[..., Any]], call: Callable[[str, Mapping[str, Any]], Any], room: Path
    ):
        self.doors, self.call, self.room = doors, call, room
        own = [vars(module) for name, module in sys.modules.items() if name.startswith("caseback.")]
        self.classes = {name for module in own for name, thing in module.items() if isinstance(thing, type)}
        self.results: dict[str, Any] = {}
        self.written: dict[str, Path] = {}
        self.asked: list[str] = []  # which doors are being called, each for the next

    def arguments(self, door: str, function: Callable[..., Any], own: Mapping[str, Any]) -> dict[str, Any]:
        """What a valid call of a door takes from others, by name; what is its own, and what cannot be given, is not."""
        arguments = {name: self.given_by(giver) for name, giver in _row(GIVEN_BY, door, {}).items()}
        parameters = {} if isinstance(function, type) else _parameters(function)
        if isinstance(function, type) and type(one := self.of_class(function.__name__)) is function:
            arguments = parts_of(one) | arguments
        if (writer := _row(WRITTEN_BY, door, None)) is not None:
            arguments |= {next(name for name in PLACES if name in parameters): self.written_by(writer)}
        kind = function.__qualname__.partition(".")[0]
        if "self" in parameters and kind != "Model" and (one := self.of_class(kind)) is not None:
            arguments["self"] = one
        for name, parameter in parameters.items():
            if name in arguments or name in own or parameter.default is not parameter.empty:
                continue
            if name in ("document", "explanation"):
                arguments[name] = self.given_by(kind_drawn(function).function)
            elif parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                one = self.of_class(_class_of(parameter.annotation))
                arguments |= {} if one is None else {name: one}
        return arguments

    def of_class(self, name: str) -> Any:
        """An object of a class, from the first function that returns one and can be called; None where none can."""
        if name in ONE_OF:
            return self.given_by(ONE_OF[name])
        if name not in self.classes:
            return None
        for giver in (door for door, function in self.doors.items() if _returns(function) == name):
            with contextlib.suppress(Exception):  # a door without a valid call is named by who counts them
                if type(given := self.given_by(giver)).__name__ == name:
                    return given
        return None

    def given_by(self, giver: Giver) -> Any:
        """What a door's valid call gives, made once."""
        if isinstance(giver, list):
            return [self.given_by(one) for one in giver]
        if isinstance(giver, tuple):
            return self.given_by(giver[0])[giver[1]]
        door = self._door(giver)
        if door in self.asked:
            raise RecursionError(f"{door} takes what it gives")
        if door not in self.results:
            self.asked.append(door)
            try:
                self.results[door] = self.call(door, {})
            finally:
                self.asked.remove(door)
        return self.results[door]

    def written_by(self, writer: str | tuple[str, str, Giver]) -> Path:
        """The file, or the folder, that a door's valid call writes."""
        if (name := str(writer)) not in self.written:
            end, *of = (writer,) if isinstance(writer, str) else writer
            otherwise = {} if not of else {of[0]: self.given_by(of[1])}
            door = self._door(end)
            place = next(place for place in PLACES if place in _parameters(self.doors[door]))
            self.written[name] = self.room / f"{end} {len(self.written)}"
            self.call(door, otherwise | {place: self.written[name]})
        return self.written[name]

    def _door(self, end: str) -> str:
        (door,) = [door for door in self.doors if f".{door}".endswith(f".{end}")]
        return door


def parts_of(one: Any) -> dict[str, Any]:
    """What a thing was made of, as far as it still says so."""
    held = {name: next((at for at in (name, f"_{name}") if hasattr(one, at)), None) for name in _parameters(type(one))}
    return {name: getattr(one, at) for name, at in held.items() if at is not None}


def kind_drawn(function: Callable[..., Any]) -> DocumentKind:
    """The kind of document that a function's file names, or is named after; else any."""
    own = vars(sys.modules[function.__module__]).values()
    if (named := next((one for one in own if isinstance(one, DocumentKind)), None)) is not None:
        return named
    reports = [module for name, module in sys.modules.items() if name.startswith("caseback.reports.")]
    kinds = {one.kind: one for report in reports for one in vars(report).values() if isinstance(one, DocumentKind)}
    file = function.__module__.rpartition(".")[2]
    return kinds[next((kind for kind, page in PAGES.items() if file.startswith(page)), "caseback.circuit")]


def _parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(function).parameters


def _row(table: Mapping[str, Any], door: str, without: Any) -> Any:
    return next((row for end, row in table.items() if f".{door}".endswith(f".{end}")), without)


def _class_of(annotation: Any) -> str:
    return (annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")).strip("'")


def _returns(function: Callable[..., Any]) -> str:
    return _class_of(getattr(function, "__annotations__", {}).get("return", ""))
