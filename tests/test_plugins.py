"""Another package, installed beside this one, adds a family, a technique, an architecture and a page."""

import subprocess
import sys
import textwrap

import pytest

from caseback import plugins

FILES = {
    "extra.py": """
        from caseback.decode.dictionaries.architectures.topk import TopK
        from caseback.decode.dictionaries.registry import architecture
        from caseback.model.anatomy.families import LLAMA
        from caseback.model.registry import technique
        from caseback.localize.inputs import gradient_norm
        from caseback.reports.document import DocumentKind
        from caseback.views.page.kit.frame import frame
        from caseback.views.page.page import Page
        import xarray

        FAMILY = LLAMA

        @technique(role="input attribution", entry=("3.1.3",), citation="Nobody 2026", cost="one forward")
        def gradient_norm_again(model, tokens, metric) -> xarray.DataArray:
            '''The norm of the gradient, once more.'''
            return gradient_norm(model, tokens, metric)

        @architecture("another topk")
        class AnotherTopK(TopK):
            '''TopK under another name.'''

        POEM = DocumentKind("caseback.poem", 1, "a document of a poem", "poem", ("lines",))
        PAGE = Page(
            POEM,
            title=lambda document: "A poem",
            tables=lambda document: frame(document, "What rhymes with {}?", document["lines"][0]),
            styles=("page", "concept"),
        )
    """,
    "broken.py": "raise RuntimeError('not today')",
    "extra-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: extra\nVersion: 1.0\n",
    "extra-1.0.dist-info/entry_points.txt": """
        [caseback.families]
        llama_of_another_name = extra:FAMILY
        broken_llama = broken:FAMILY
        wrong_llama = extra:POEM

        [caseback.techniques]
        extra = extra
        broken = broken

        [caseback.architectures]
        extra = extra

        [caseback.pages]
        caseback.poem = extra:PAGE
    """,
}


@pytest.fixture
def beside(tmp_path):
    """Run Python with that package on its path."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(textwrap.dedent(text), encoding="utf-8")

    def run(code):
        # behind the path of this process, so that nothing of the package is shadowed
        begin = f"import sys; sys.path[:] = {[*sys.path, str(tmp_path)]!r}\n"
        ran = subprocess.run([sys.executable, "-c", begin + textwrap.dedent(code)], capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout.strip()

    return run


def test_nothing_is_offered_where_nothing_is_installed():
    assert {group: dict(plugins.offered(group)) for group in plugins.GROUPS} == {group: {} for group in plugins.GROUPS}
    assert plugins.loaded("pages", "caseback.poem") is None


def test_a_family_is_read_by_its_model_type(beside):
    said = beside("""
        from types import SimpleNamespace
        from caseback.errors import AnatomyError
        from caseback.model.anatomy.families import LLAMA, family_of
        print(family_of(SimpleNamespace(model_type="llama_of_another_name")) == (LLAMA, True))
        for name in ("broken_llama", "wrong_llama"):
            try:
                family_of(SimpleNamespace(model_type=name))
            except AnatomyError as error:
                print(error)
    """)
    first, broken, wrong = said.splitlines()
    assert first == "True"
    assert "'broken:FAMILY', which extra offers as caseback.families 'broken_llama', cannot be loaded" in broken
    assert "RuntimeError: not today" in broken and "expected a model type, and its `Family`" in wrong


def test_a_technique_plays_its_role_and_one_that_fails_is_left_out(beside):
    said = beside("""
        import warnings
        import caseback as cb
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            names = [t.name for t in cb.techniques() if t.citation == "Nobody 2026"]
        print(names)
        print(*[w.message for w in seen if "left out" in str(w.message)])
        from caseback.localize.inputs.methods import input_methods
        from caseback.reports.attributions import compare_attributions
        document = compare_attributions(cb.load("meadow"), "Mary and John went to the", ["gradient_norm_again", "gradient_norm"])
        one, two = document["methods"]
        print(one["scores"] == two["scores"])
    """)
    names, left_out, equal = said.splitlines()
    assert names == "['extra.gradient_norm_again']" and equal == "True"
    assert left_out.count("left out") == 1 and "'broken', which extra offers as caseback.techniques" in left_out


def test_an_architecture_and_a_page_are_known_by_name(beside):
    said = beside("""
        from caseback.decode.dictionaries.registry import architecture_of, architectures
        from caseback.views.page.kinds import page_html
        print(architecture_of("another topk").__module__, "another topk" in architectures())
        page = page_html({"kind": "caseback.poem", "version": 1, "model": {"name": "meadow"}, "lines": ["window"]})
        print("What rhymes with <em>window</em>?" in page)
    """)
    assert said.splitlines() == ["extra True", "True"]
