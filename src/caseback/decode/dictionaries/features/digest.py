"""Which dictionary it is: a short digest of its weights, so that notes on its features are not read as another's."""

from __future__ import annotations

from caseback.decode.dictionaries.dictionary import Dictionary
from caseback.jobs.fingerprint import fingerprint
from caseback.model.anatomy.sites import as_site
from caseback.model.arguments import checked
from caseback.model.graph.names import WRITTEN_AT, Name


@checked
def dictionary_digest(dictionary: Dictionary) -> str:
    """A short digest of what a dictionary reads and writes; the same for every file and dtype wide enough.

    Examples
    --------
    >>> from caseback.decode.dictionaries import TopK
    >>> one, other = TopK(4, 8, k=2), TopK(4, 8, k=2, seed=1)
    >>> dictionary_digest(one) == dictionary_digest(TopK(4, 8, k=2)), dictionary_digest(one) == dictionary_digest(other)
    (True, False)
    """
    rows = [dictionary.W_enc.detach(), dictionary.W_dec.detach()]
    return fingerprint([row.float().cpu() for row in rows], "a dictionary")[:16]


def feature_name(dictionary: Dictionary, feature: int) -> str:
    """A feature as notes and circuits name it, by where it writes; empty where nothing there has a name.

    Examples
    --------
    >>> from caseback.decode.dictionaries import Facts, TopK
    >>> feature_name(TopK(4, 8, k=2, facts=Facts(site="resid_post.2")), 5)
    'L2F5:resid_post'
    """
    where = dictionary.facts.target or dictionary.facts.site
    if not where:
        return ""
    site = as_site(where)
    if site.name not in WRITTEN_AT or site.layer is None:
        return ""
    return str(Name("feature", site.layer, feature, site="" if site.name == "mlp_out" else site.name))
