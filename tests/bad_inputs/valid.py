"""A valid call for every door: arguments by the names that the package gives them, and by door where one means other."""

import hashlib
import inspect
import json
import pickle
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

import caseback as cb
from bad_inputs.results import Results, parts_of
from bad_inputs.valid_dictionaries import OTHER, TEXT, calls_of_dictionaries
from bad_inputs.valid_editing import calls_of_editing
from bad_inputs.valid_truth import calls_of_truth
from caseback.decode.dictionaries import (
    Facts,
    TopK,
)
from caseback.decode.dictionaries.measures import planted_features
from caseback.decode.steering import contrastive_addition
from caseback.decode.vocabulary.lenses.lens import Lens
from caseback.decode.vocabulary.lenses.saved_lenses import save_lens
from caseback.localize.abstraction import At, Interchanges
from caseback.localize.circuits import edge_attribution
from caseback.localize.components import logit_attribution
from caseback.localize.counterfactuals import Change, Word
from caseback.localize.inputs import gradient_x_input
from caseback.model.circuit import Edge
from caseback.reports.tables.tasks import task_examples
from caseback.server.serving import served
from caseback.stream import write_codes
from caseback.stream.documents import documents
from caseback.stream.packing import blocks_of, rows_of
from caseback.tasks.regression import digit_regression
from caseback.views.text.bars import UNICODE


class Valid:
    """A tiny model, things made with it, and the arguments of calls.

    Parameters
    ----------
    model
        Of two layers, with a tokenizer.
    room
        A folder to write in.
    """

    def __init__(self, model: cb.Model, room: Path):
        self.model, self.room, self.text = model, room, TEXT
        self.calls: dict[str, tuple[dict[str, Any], str | None]] = {}
        self.results: Results | None = None
        self.left = ""
        room.mkdir(exist_ok=True)
        tokens = model.tokens(TEXT)
        run = model.run(tokens, read=["resid_post", "z"])
        circuit = cb.Circuit.of("embed -> L0H1.v", "L0H1 -> logits", "MLP 0 -> logits")
        data = Interchanges(
            model.tokens([TEXT, OTHER]),
            {"a": model.tokens([OTHER, TEXT])},
            torch.tensor([5, 6]),
            torch.tensor([6, 5]),
        )
        write_codes(room / "codes", [run["resid_post", 0][0].relu()])
        (room / "vllm").mkdir(exist_ok=True)
        states = {"hidden_states": run["resid_post", 0].movedim(0, 1).contiguous(), "token_ids": tokens.ids[0]}
        save_file(states, room / "vllm" / "request.safetensors")
        lens = Lens("translator", (0, 1, 2), torch.zeros(3, 16, 16), torch.zeros(3, 16), 2)
        effects = logit_attribution(model, TEXT, cb.logit_diff(" Mary", " John"))
        edges = edge_attribution(model, TEXT, OTHER, cb.logit_diff(" Mary", " John"))
        per_token = gradient_x_input(model, TEXT, cb.logit_diff(" Mary", " John"))
        scored = {Edge.parse("embed -> L0H1.v"): 0.5, Edge.parse("L0H1 -> logits"): -1.0}
        scored_circuit = cb.Circuit(frozenset(scored), scores=scored)
        neuron = cb.model.circuit.Node("neuron", 0, 3)
        scored_nodes = cb.Circuit(nodes=frozenset([neuron]), scores={neuron: 1.0})
        pairs = cb.tasks.ioi().prompts(model, 2)
        rows = "Mary went,she\nJohn went,he\nMary gave,she\nJohn gave,he\n" * 3
        (room / "labeled.csv").write_text(f"text,label\n{rows}", encoding="utf-8")
        save_lens(lens, room / "kept.safetensors")
        self.server = served(model)  # for as long as this is there
        address = self.server.__enter__()
        remote = cb.connect(address)
        cb.save_edits([cb.Zero("z", layer=0, head=0)], room / "edits.safetensors")
        dictionary = TopK(16, 20, k=3, facts=Facts(site="resid_post.0")).to(model.device)
        self.by_name: dict[str, Any] = {
            "model": model,
            "tokens": TEXT,
            "prompt": TEXT,
            "prompts": TEXT,
            "clean": TEXT,
            "corrupt": OTHER,
            "texts": [TEXT, OTHER],
            "metric": cb.logit_diff(" Mary", " John"),
            "target": " Mary",
            "foil": " John",
            "layer": 0,
            "head": 0,
            "unit": 0,
            "neuron": 0,
            "pos": -1,
            "row": 1,
            "target_row": 1,
            "site": "resid_post",
            "sites": ["resid_post"],
            "edits": [cb.Zero("z", layer=0, head=0)],
            "edit": cb.Zero("z", layer=0, head=0),
            "variants": [cb.Zero("z", layer=0, head=0)],
            "circuit": circuit,
            "edges": list(circuit.edges),
            "edge": "embed -> L0H1.v",
            "matrix": "ov",
            "value": 0.0,
            "factor": 0.5,
            "std": 0.1,
            "source": run,
            "reference": run,
            "run": run,
            "name": "ioi",
            "task": "ioi",
            "count": 2,
            "seed": 0,
            "samples": 2,
            "steps": 2,
            "epochs": 1,
            "path": room / "out",
            "folder": room / "folder",
            "max_new_tokens": 2,
            "weaker": model,
            "target_model": model,
            "subject": "Mary",
            "sentences": [TEXT, OTHER],
            "answer": " Mary",
            "fn": _first_logit,
            "function": _double,
            "basis": torch.eye(16)[:2],
            "dictionaries": {"one": dictionary},
            "dictionary": dictionary,
            "states": torch.randn(40, 16, generator=torch.Generator().manual_seed(0)),
            "planted": planted_features(16, 4, 40, probabilities=[0.5] * 4, parents=[-1, 0, -1, -1]),
            "features": torch.eye(16)[:2],
            "slots": {"who": [0, 1] * 20},
            "vectors": torch.eye(16)[:2],
            "threshold": 0.1,
            "n_edges": 3,
            "directions": 2,
            "method": "eap",
            "words": "the logit",
            "title": "a title",
            "text": TEXT,
            "self": model,
            "data": data,
            "cause": data,
            "isolation": data,
            "at": At("resid_post", layer=0, pos=-1),
            "alignment": {"a": At("resid_post", layer=0, pos=-1)},
            "d_vocab": 50,
            "held_out": 0.5,
            "length": 4,
            "lens": lens,
            "lenses": [lens],
            "circuits": [circuit],
            "receivers": [cb.Site("q", 1)],
            "scores": per_token,
            "estimates": effects,
            "truth": circuit,
            "bases": torch.eye(16)[:1],
            "direction": torch.ones(16),
            "context": TEXT,
            "current": " to the store",
            "foils": [" John"],
            "methods": ["gradient_x_input"],
            "queries": [TEXT],
            "corpus": [TEXT, OTHER],
            "query": TEXT,
            "lines": [TEXT, OTHER],
            "n_examples": 4,
            "n_subsets": 2,
            "subsets": torch.eye(2, dtype=torch.bool).numpy(),
            "outcomes": torch.eye(2).numpy(),
            "batches": [[0], [1]],
            "losses": torch.ones(3).numpy(),
            "first": "L0H0",
            "second": "L1H0",
            "targets": [" Mary"],
            "bands": 4,
            "skip": 1,
            "probability": 0.5,
            "share": 0.5,
            "by": "component",
            "names": ["ioi"],
            "values": torch.ones(1, 4),
            "how": "sum",
        }
        of_words = {"pairs": [(str(i), str(i + 1)) for i in range(20)], "prompts": 4, "shots": 2}
        of_words |= {"shot": "{input}: {output}\n", "without": "shuffled", "by": "prob"}
        agreeing = cb.tasks.agreement(structure="simple").prompts(model, 16).pairs
        numbered = [replace(pair, group=pair.group.split()[1]) for pair in agreeing]
        # where a name means something else
        self.by_door: dict[str, dict[str, Any]] = {
            "Circuit.": {"self": circuit, "other": circuit, "count": 2},
            "Tokens.": {"self": tokens, "position": 0, "side": "left", "device": "cpu"},
            "Run.": {
                "self": model.run(tokens, read=["resid_post"], grad=True),
                "sites": [("resid_post", 0)],
                "site": cb.Site("resid_post", 0),
                "g": torch.zeros(1, tokens.ids.shape[1], 16),
            },
            "Model.text": {"self": model, "tokens": tokens},
            "connect": {"url": address, "token": None},
            "RemoteModel.": {"self": remote},
            "RemoteModel.text": {"self": remote, "tokens": tokens},
            "RemoteModel.token_id": {"self": remote, "text": " Mary"},
            "Model.token_id": {"self": model, "text": " Mary"},
            "Model.token_text": {"self": model, "token": 5},
            "figure.attention.": {"run": model.run(TEXT, read=["pattern", "q", "k"]), "query": -1, "key": 0},
            "attention_of_layer": {"run": model.run(TEXT, read=["pattern"])},
            "score_by_dimension": {"run": model.run(TEXT, read=["q", "k"]), "query": -1, "key": 0},
            "figure.tokens.": {"scores": [0.5, -1.0]},
            "figure.projection.": {"labels": None, "names": None},
            "svg.": {"name": "g", "words": "a", "x": 0.0, "y": 0.0, "x1": 0.0, "y1": 0.0, "x2": 1.0, "y2": 1.0},
            "svg.rect": {"x": 0.0, "y": 0.0, "width": 1.0, "height": 1.0},
            "grid.Grid": {"rows": ["a"], "columns": ["b"]},
            "scale_bar": {"x": 0.0, "y": 0.0, "most": 1.0, "value": "effect"},
            "curves.panel": {
                "lines": {"kl": [1.0]},
                "at": ["0"],
                "x": 0.0,
                "y": 0.0,
                "wide": 90.0,
                "high": 60.0,
            },
            "curves.legend": {"names": ["kl"], "x": 0.0, "y": 0.0, "wide": 90.0},
            "page.shell": {"title": "a", "body": "", "style": ""},
            "figure.Figure": {"drawn": "", "width": 9.0, "height": 9.0, "maps": [], "modes": []},
            "answer_log_prob": {"answer": " went"},
            "metrics.Metric": {"name": "a metric", "bind": cb.logit(" Mary").bind},
            "site_metrics.activation": {"site": "resid_post", "layer": 0, "unit": 0},
            "interchanges.Interchanges": {
                "base": data.base,
                "sources": data.sources,
                "target": data.target,
                "base_target": data.base_target,
            },
            "lens.Lens": {
                "kind": "translator",
                "rows": (0, 1, 2),
                "weight": lens.weight,
                "bias": lens.bias,
                "n_layers": 2,
            },
            **calls_of_editing(model, room),
            **calls_of_truth(room),
            "affine.Affine": {"read": torch.eye(16)[:2], "write": torch.eye(16)[:2]},
            "affine.Rotate": {"plane": torch.eye(16)[:2], "angle": 30.0},
            "steps.Step": {"name": "one", "units": 1, "work": dict},
            "table_of_records": {"lines": '{"prompt": "Mary went to the", "target": " store"}', "measure": "prob"},
            "table_of_task": {"task": "ioi", "measure": "log_prob"},
            "MinimalPair": {"good": TEXT, "bad": OTHER},
            "Statement": {"text": TEXT, "label": True},
            "examples.Example": {"text": ["a"], "ids": [5], "values": [1.0], "value": 1.0},
            "load_lens": {"path": room / "kept.safetensors", "model": None},
            "load_eraser": {"model": None},
            "load_directions": {"model": None},
            "save_control_vector": {"directions": contrastive_addition(model, TEXT, OTHER, sites="resid_post.1")},
            "load_tensor_directions": {"path": room / "vector.pt", "allow_pickle": True, "layer": 0},
            "load_pyreft": {"folder": loreft_folder(room / "loreft"), "allow_pickle": True},
            "labeled_texts.labeled_texts": {"path": room / "labeled.csv"},
            "steering.find_when": {
                "texts": [text for noun in "abcd" for text in (f"the {noun} ran", f"7 + {noun} =")],
                "labels": ["text", "sum"] * 4,
                "groups": None,
            },
            "LabeledTexts": {"texts": [TEXT, OTHER], "labels": ["she", "he"]},
            "load_edits": {"path": room / "edits.safetensors"},
            "push": {"path": room / "edits.safetensors", "address": "hf://ours/things", "dry_run": True},
            "Model.run": {"self": model},
            "mediate": {"source": OTHER},
            "load": {"model": "meadow"},
            "names": {},
            "judge": {"sets": 1, "within": 0.0, "ablations": ["zero"]},
            "weights_as_words": {"matrix": "in"},
            "units_of_word": {"word": " Mary"},
            "forward_shift": {"target": " Mary"},
            "weight_gradient": {"matrix": "out"},
            "edge_roc": {"scores": edges},
            "select": {"scores": edges},
            "faithfulness_curve": {"scores": edges},
            "patchscope.patchscope": {"source": TEXT, "target": "x x x"},
            "get": {"name": "ioi"},
            "patch_models": {"other": model, "site": "z", "by": ["layer"], "normalise": False},
            "path_patch": {"receivers": ["L1H0.q"]},
            "feature_effects": {"sites": ["mlp_post"], "method": "attribution", "direction": "noising"},
            "feature_circuit": {
                **{"sites": ["mlp_post"], "method": "attribution", "direction": "noising"},
                **{"edges": True, "node_threshold": 0.0, "edge_threshold": 0.0},
            },
            "feature_faithfulness": {"sites": ["mlp_post"], "circuits": cb.Circuit.of("L0N3")},
            "strongest_nodes": {"circuit": scored_nodes, "count": 1},
            "shift.shift": {
                **{"tokens": [TEXT, OTHER], "labels": [0, 1], "shortcut": [1, 0], "nodes": ["L0N3"]},
                **{"sites": ["mlp_post"], "draws": 1, "ablation": "zero"},
            },
            "node_circuit.node_circuit": {"task": "ioi", "nodes": "neurons", "dictionaries": (), "top": 4},
            "find_circuit": {"threshold": None, "edges": 3},
            "task_circuit": {"threshold": None, "edges": 3},
            "span_schema": {"spans": {"name": "Mary"}},
            "span_circuit.span_circuit": {"method": "eap", "edges": 60, "how": "greedy"},
            "attribution_graph": {"targets": " Mary", "max_nodes": 20},
            "query_key_attribution": {"head": "L1H0"},
            "prune_graph": {"node": 1.0},
            "graph_document": {
                "about": {"method": "flow"},
                "targets": [],
                "nodes": {"name": ["a", "b"], "kind": ["embed", "logits"], "layer": [-1, 2], "pos": [0, 0]}
                | {"influence": [0.5, 1.0]},
                "edges": {"source": [0], "target": [1], "weight": [0.5]},
            },
            "from_the_top": {"n_nodes": 3, "sources": [0, 1], "targets": [1, 2]},
            "graphs.paths.Path": {"nodes": (0, 1), "strength": 0.5},
            "lime.lime": {"samples": 32},
            "kernel_shap": {"samples": 32},
            "component_model": {"samples": 32},
            "units_of": {"layer": 0},
            "fit_tuned_lens": {"steps": 1, "tokens_per_step": 4},
            "fit_attention_lens": {"steps": 1, "tokens_per_step": 4},
            "reagent": {"max_steps": 2, "probes": 1},
            "activating.": {"layer": 0, "directions": None},
            "synthesise": {"layer": 0, "directions": None, "steps": 1, "candidates": 2, "proposals": 2},
            "subspace": {"layer": 0},
            "virtual_head": {"first": (0, 0), "second": (1, 0)},
            "top_tokens": {"tokens": TEXT, "text": None},
            "known_source_test": {"methods": ["gradient_norm"], "models": 1},
            "LowRank": {"matrix": "out"},
            "weight_svd_words": {"matrix": "out"},
            "metrics.function": {"fn": _first_of_row},
            "fit_jacobian_lens": {"rows": [1]},
            "collect.collect": {
                "corpus": [TEXT, OTHER],
                "tables": "stream_moments",
                "activations": ["resid_post.0"],
                "folder": room / "collecting",
            },
            "open_store": {"site": "resid_post.0"},
            "from_model": {
                "site": "resid_post.0",
                "blocks": list(blocks_of(rows_of(model, documents([TEXT, OTHER]), length=8), 64)),
            },
            "collect_vllm": {"files": room / "vllm", "layers": [1], "folder": room / "from_vllm"},
            "from_vllm": {"files": room / "vllm", "layers": [1], "layer": 1},
            "open_codes": {"folder": room / "codes"},
            "documents.Document": {"content": TEXT},
            "in_words.InWords": {
                **{"unit": 0, "explanation": "a name", "score": 0.5, "detection": 0.5, "fuzzing": 0.5},
                **{"asked": 3, "junk": []},
            },
            "self_explanation.Faithfulness": {
                **{"tried": 2, "flip_rate": 0.5, "stated": 0.5, "flips": [], "asked": 3, "junk": []}
            },
            "waterfall.Bar": {"name": "MLP 0", "value": 1.0, "start": 0.0, "spread": 0.1},
            "masked_sampler": {"lm": model.hf, "tokenizer": SimpleNamespace(mask_token_id=5, mask_token="Mary")},
            "Circuit.top": {"self": scored_circuit, "count": 1},
            "paths.top_tokens": {"tokens": " Mary"},
            "head_sources": {"layer": 1},
            "Run.pulled": {"self": model.run(tokens, read=["q_in"], grad=True), "site": cb.Site("q_in", 0)},
            "comparison.comparison": {"tokens": tokens},
            "expect_kind": {
                **{"document": {"kind": "a", "version": 1}, "kind": "a", "version": 1, "what": "an a"},
                "made_by": "f",
            },
            "check_finite": {"value": [1.0], "place": "a"},
            "model_and_words": {"name": "meadow"},
            "fact_flow": {
                **{"facts": cb.edit.relation_facts("capital", count=4), "window": 1, "k": 5, "draws": 2},
                "attributes": None,
            },
            "additive_recall": {"facts": cb.edit.relation_facts("capital", count=12), "other": None},
            "relation_map.relation_map": {
                **{"facts": cb.edit.relation_facts("capital"), "examples": 2, "layers": [0], "betas": [1.0]},
                **{"demonstrations": False, "draws": 1},
            },
            "emergence.emergence": {
                **{"checkpoints": {0: model, 10: model}, "corpus": [TEXT, OTHER] * 2, "kinds": ["copying"], "rows": 8},
                **{"n_tokens": None, "length": None},
            },
            "learning_coefficient": {
                **{"tokens": [TEXT, OTHER], "metric": None, "within": None, "n_beta": 1.0, "lr": 1e-4},
                **{"localization": 1.0, "burn_in": 1, "steps": 2, "batch_size": 2, "chains": 1},
            },
            "universality.universality": {"other": model, "corpus": [TEXT, OTHER], "units": "head", "skip": 1},
            "layer_similarity": {"other": model, "corpus": [TEXT, OTHER], "site": "resid_post", "skip": 1},
            "context_memory": {
                **{"facts": cb.edit.relation_facts("capital", count=12), "top": 1, "factors": [2.0], "draws": 1},
            },
            "request_patching": {
                **{"requests": ["The capital of {} is", "The language of {} is"], "count": 4},
                **{"contexts": ["Italy", "France"], "answers": [["Rome", "Italian"], ["Paris", "French"]]},
            },
            "arithmetic_heuristics": {"largest": 8, "layers": [3], "top": 20, "most": 2, "draws": 2},
            "needle_test": {"lengths": [60], "depths": [0.5], "count": 24, "draws": 2},
            "memory_recall": {"words": 20},
            "plausible_answers": {
                **{"facts": cb.edit.relation_facts("capital", count=12), "layers": [0], "rho": [0.5], "draws": 1},
            },
            "sort_of_answer": {"right": [5], "answers": [5, 6]},
            "binding_ids": {"scene": "boxes", "count": 40},
            "likeliest": {"answers": [5]},
            "scenes.Scene": {
                **{"fact": "{entity} has {attribute}", "question": "{entity} has"},
                **{"entities": ["Mary", "John"], "attributes": ["tea", "milk"]},
            },
            "neuron_routing": {"corpus": [TEXT, OTHER], "n_tokens": 60, "least": 1},
            "relations_of": {"names": ["capital", "language"]},
            "choices.says": {"answers": [5]},
            "relation_of": {"name": "capital"},
            "drawn_facts": {"name": "capital", "count": 3},
            "measure.behavior": {"name": "ioi", "prompts": 4, "task": None},
            "pair_sets.pair_sets": {"sets": {"nouns": numbered}, "prompts": 4, "draws": 2},
            "function_words": {"name": "capital"},
            **dict.fromkeys(("function_vectors.function_vector", "function_vectors.task_vector"), of_words),
            "argument_function": {**of_words, "draws": 1},
            "memorization.memorization": {"texts": [("The dog ran to the", "park")], "others": None},
            "texts_by_heart": {"name": "idioms"},
            "memorization.layer_words": {"what": "settled"},
            "in_context_learner.in_context_learner": {"examples": digit_regression(12, shots=3), "steps": [1, 2]},
            "world_model.world_model": {"games": cb.behaviors.spread_games(8), "edits": 4, "draws": 1},
            "spread_games": {"count": 8},
            "digit_regression": {"count": 3, "shots": 2, "features": 1},
            "function_behavior": {**of_words, "other": None, "name": "digits", "draws": 2},
            "role.Role": {"name": "mover", "about": "moves", "at": "end", "to": "IO", "sign": 1, "control": None}
            | {"by": "total", "sort": "head"},
            "role.Behavior": {"name": "mine", "about": "asks", "task": cb.tasks.ioi, "roles": (), "entry": "5.4.4"}
            | {"citation": "Ann 2024", "places": ("end",), "extra": {}},
            "data.packed": {"pattern": torch.eye(2).numpy()},
            "with_visible": {"token": {"text": " Mary", "id": 5}},
            "align.align": {"pairs": pairs.pairs},
            "prompts.Prompts": parts_of(pairs),
            "frontier_table": {"names": ["ioi"]},
            "transfer_table": {"names": ["ioi", "relation"], "method": "eap"},
            "circuit_transfer.circuit_transfer": {"tasks": {"a": pairs, "b": pairs}, "method": "eap", "draws": 1},
            "print_collection": {
                "facts": {"folder": None, "tokens": 3, "model": "m", "tables": {"t": {"n": {"layer": 2}}}}
                | {"activations": ["resid_post.0"]}
            },
            "print_similar": {
                "neighbors": {
                    "contexts": [{"before": ["a"], "token": "b", "after": ["c"], "score": 0.5}],
                    "common": [{"where": "before", "token": "a", "share": 0.5, "base": 0.1}],
                }
            },
            "print_jobs": {"jobs": []},
            "print_direct_shares": {"values": [1.0]},
            "print_scores": {
                "rows": [
                    {"behaviour": "b", "what": "w", "held_out": "h", "top": 0.5, "over_foil": None}
                    | {"probability": 0.5, "target": None}
                ]
            },
            "bars.Glyphs": parts_of(UNICODE),
            "edits.Apply": {"function": _double},
            "Activating.": {"rows": [0], "n": 1, "q": [0.5], "index": [0], "before": 1, "after": 1},
            "Collection.state": {"name": "stream_moments"},
            "Collection.store": {"site": "resid_post.0"},
            "Store.": {"index": [0, 1], "name": "ids", "first": 0, "count": 2, "tokens": 4, "number": 0, "shard": 0},
            "shrinking.shrink": {"circuit": scored_circuit, "least": -10.0, "most": 10.0},
            "Prompts.at": {"name": "end"},
            "Prompts.measured": {"self": pairs[:1], "measure": "logit_diff"},
            "Prompts.to": {"device": "cpu"},
            "strongest_places": {"most": 2},
            "explain.explain": {"corrupt": OTHER, "depth": "quick"},
            "stories": {"prompts": [TEXT], "depth": "quick"},
            "answer_stories": {"prompt": TEXT, "max_new_tokens": 2, "depth": "quick"},
            "attributions_over_prompts": {"prompts": [TEXT, OTHER], "methods": ["gradient_norm"], "chance": 2},
            "beyond_chance": {"key": "lost"},
            "records_of": {"lines": '{"prompt": "a", "target": " b"}'},
            "words.Word": vars(word := Word((0,), (1,), "a", "id", True)),
            "results.Change": {"word": word, "text": "b", "ids": (2,)},
            "aligning.Cut": {"text": "ab", "pieces": ("a", "b"), "clean": True},
            "results.Counterfactual": {
                **{
                    "tokens": model.tokens(TEXT),
                    "changes": (Change(word, "b", (2,)),),
                    "way": "replacement",
                    "foil": 1,
                },
                **{"foil_text": "b", "clean": 1.0, "corrupt": -1.0, "effect": 0.5, "size": 1.0, "score": 0.5},
                "moves": True,
            },
            "load_tuned_lens": {"pickle": True},
            "load_jacobian_lens": {"pickle": True},
            "print_task_examples": {"shown": task_examples(model, cb.tasks.ioi(), 1) | {"model": "tiny"}},
        }
        self.by_door |= calls_of_dictionaries(model, room, effects)
        # options that make a call cheaper
        self.cheap = {
            "steps",
            "samples",
            "epochs",
            "count",
            "max_new_tokens",
            "n_edges",
            "threshold",
            "directions",
            "bands",
            "length",
            "skip",
            "held_out",
        }

    def arguments(self, door: str, function: Callable[..., Any]) -> dict[str, Any]:
        """What a valid call passes, by name."""
        own: dict[str, Any] = {}
        for place in sorted(self.by_door, key=len):  # a folder's first, then the door's own
            if f".{place}" in f".{door}" if place.endswith(".") else f".{door}".endswith(f".{place}"):
                own |= self.by_door[place]
        chosen: dict[str, Any] = {}
        for name, parameter in inspect.signature(function).parameters.items():
            if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
                continue
            if name in own and own[name] is None:
                continue
            if name in own:
                chosen[name] = own[name]
            elif name in self.by_name and (parameter.default is parameter.empty or name in self.cheap):
                chosen[name] = self.by_name[name]
        given = {} if self.results is None else self.results.arguments(door, function, chosen)
        return given | chosen | {name: given[name] for name in given if name not in own}

    def state_before(self) -> tuple[str, str]:
        """The state before a call: of the model what the last one left, since looking is what most of a cheap one costs."""
        return self.left or self._of_model(), _of_random()

    def state(self) -> tuple[str, str]:
        """What a call may not change: parameters, flags, hooks, attention; and the caller's random states."""
        self.left = self._of_model()
        return self.left, _of_random()

    def _of_model(self) -> str:
        hf = self.model.hf
        digest = hashlib.sha256()
        for name, tensor in (*hf.named_parameters(), *hf.named_buffers()):
            digest.update(f"{name} {tensor.requires_grad} {tensor.grad is None}".encode())
            digest.update(tensor.detach().numpy().tobytes())
        for name, module in hf.named_modules():
            hooks = [len(vars(module).get(kind, ())) for kind in _HOOKS]
            digest.update(f"{name} {module.training} {hooks} {'forward' in vars(module)}".encode())
        digest.update(str(hf.config._attn_implementation).encode())
        return digest.hexdigest()


def _of_random() -> str:
    # as bytes: to print NumPy's 624 numbers took more time than most calls
    others = pickle.dumps((random.getstate(), np.random.get_state()))
    return hashlib.sha256(torch.get_rng_state().numpy().tobytes() + others).hexdigest()


_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def _first_logit(logits: torch.Tensor) -> torch.Tensor:
    return logits[:, -1, 0]


def _first_of_row(logits: torch.Tensor) -> torch.Tensor:
    return logits[:, 0]


def _double(x: torch.Tensor) -> torch.Tensor:
    return 2 * x


def loreft_folder(folder: Path) -> Path:
    """A folder as pyreft saves one, of width 16, and a vector beside it."""
    folder.mkdir(exist_ok=True)
    key = "layer_0_comp_block_output_unit_pos_nunit_1#0"
    tensors = {"weight": torch.eye(16)[:2], "bias": torch.ones(2), "rotate_layer": torch.eye(16)[:, :2]}
    torch.save(tensors, folder / f"intkey_{key}.bin")
    config = {"representations": [[0, "block_output"]], "sorted_keys": [key]}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    torch.save(torch.ones(16), folder.with_name("vector.pt"))
    return folder
