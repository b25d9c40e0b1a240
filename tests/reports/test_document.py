"""Every report comes from one base, says what it is, and is refused where it cannot be drawn."""

import copy
import json
import pkgutil
from importlib import import_module

import pytest
from jsonschema import Draft202012Validator

import caseback as cb
from caseback import reports
from caseback.decode.vocabulary import weight_svd_words
from caseback.decode.vocabulary.activating import activating_inputs
from caseback.errors import CasebackError
from caseback.reports.attributions import compare_attributions
from caseback.reports.circuit import circuit_document
from caseback.reports.document import DocumentKind
from caseback.reports.explain import explain
from caseback.reports.unit import unit_document
from caseback.reports.weights import weights_document

PROMPT = "Mary and John went to"
DRAWN = tuple(f"caseback.{name}" for name in "explanation attributions circuit units weights".split())


def kinds():
    files = [import_module(f"caseback.reports.{file.name}") for file in pkgutil.iter_modules(reports.__path__)]
    declared = [value for file in files for value in vars(file).values() if isinstance(value, DocumentKind)]
    return {kind.kind: kind for kind in declared}


@pytest.fixture(scope="module")
def documents():
    model = cb.load("meadow")
    found = activating_inputs(model, ["Mary went to the store."], "mlp_post", layer=0, units=[3], top=2)
    written = [
        explain(model, PROMPT, steps=4),
        compare_attributions(model, PROMPT, ["gradient_norm", "gradient_x_input"], chance=2),
        circuit_document(model, PROMPT, cb.Circuit.of("embed -> L0H1.v", "L0H1 -> logits")),
        unit_document(model, found, [3]),
        weights_document(model, weight_svd_words(model, "ov", 2, head=4, top=1, k=2)),
    ]
    return {document["kind"]: document for document in written}


@pytest.mark.parametrize("kind", DRAWN)
def test_a_document_is_plain_data_with_kind_version_model_and_sections(kind, documents):
    document, declared = documents[kind], kinds()[kind]
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert list(document)[:3] == ["kind", "version", "model"] and document["version"] == declared.version
    assert document["model"]["name"] == "meadow" and document["provenance"]["model"] == "meadow"
    assert set(declared.sections) <= set(document)


@pytest.mark.parametrize("kind", DRAWN)
def test_a_document_keeps_its_schema_and_another_does_not(kind, documents):
    schema = kinds()[kind].schema()
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema)
    assert validator.is_valid(documents[kind])
    without = {name: value for name, value in documents[kind].items() if name != kinds()[kind].sections[0]}
    for bad in (documents[kind] | {"version": 0}, documents[kind] | {"model": {}}, without):
        assert not validator.is_valid(bad)


@pytest.mark.parametrize("kind", DRAWN)
def test_what_cannot_be_drawn_is_refused_by_name(kind, documents):
    declared = kinds()[kind]
    declared.check(documents[kind])
    for change, says in (
        (
            lambda d: d.update(kind="caseback.other"),
            f"not {declared.noun}: kind is 'caseback.other', expected '{kind}'",
        ),
        (lambda d: d.update(version=99), f"{declared.noun} of version 99"),
        (lambda d: d.pop("provenance"), f"{declared.noun} without provenance"),
        (lambda d: d.pop("model"), f"{declared.noun} without model"),
        (lambda d: d["provenance"].update(model=float("nan")), "provenance.model is nan"),
    ):
        document = copy.deepcopy(documents[kind])
        change(document)
        with pytest.raises(CasebackError, match=says):
            declared.check(document)


def test_a_kind_makes_only_what_it_would_draw():
    declared = DocumentKind("caseback.counts", 1, "a document of counts", "count_documents", ("tokens",))
    with pytest.raises(CasebackError, match="a document of counts without tokens"):
        declared.document({"name": "meadow"}, token=3)
    with pytest.raises(CasebackError, match=r"counts.tokens\[1\] is inf"):
        declared.document({"name": "meadow"}, tokens=[1.0, float("inf")])
