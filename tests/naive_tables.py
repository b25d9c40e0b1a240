"""Every table of ``caseback.stream.tables`` computed the slow way: a row, a head, a token at a time, without padding.

Marks, groups, relations and windows are written out again here, from ids and configurations alone.
"""

import math
from collections import Counter, defaultdict

import numpy as np
import torch

from caseback.stream.packing import Block, Row

KINDS = "special starts_word letters upper title digits punctuation newline non_ascii".split()
POSITIONS = [(0, 0), (1, 3), *((2**e, 2 ** (e + 1) - 1) for e in range(2, 12)), (4096, 10**9)]


class Corpus:
    """Rows with their documents, kinds of every entry, labels, and a run of each row by itself."""

    def __init__(self, model, rows, documents, kinds, labels, read):
        self.model, self.rows, self.documents, self.kinds, self.labels = model, rows, documents, kinds, labels
        self.runs = [model.run([row], read=read) for row in rows]
        self.starts = np.cumsum([0, *map(len, rows)])

    def block(self, first=0, past=None):
        past = len(self.rows) if past is None else past
        rows = [Row(self.rows[r], self.documents[r], 0, 0, {"kind": self.labels[r]}) for r in range(first, past)]
        return Block.of(rows, first, int(self.starts[first]))

    def at(self, name, layer):
        """A site of each row, (pos, ...), as numpy."""
        return [run[name, layer][0].detach().numpy() for run in self.runs]

    def flat(self, name, layer):
        return np.concatenate(self.at(name, layer))

    @property
    def tokens(self):
        """(row, position) of every token, in order."""
        return [(r, i) for r, row in enumerate(self.rows) for i in range(len(row))]

    def bit(self, r, i, kind):
        return bool(self.kinds[self.rows[r][i]] >> KINDS.index(kind) & 1)

    def groups(self, specs):
        """Predicates of (row, position)."""
        found = []
        for spec in specs:
            if spec == "any":
                found.append(lambda r, i: True)
            elif spec == "position":
                found += [lambda r, i, a=a, b=b: a <= i <= b for a, b in POSITIONS]
            elif spec == "kinds":
                found += [lambda r, i, k=k: self.bit(r, i, k) for k in KINDS]
            elif spec == "previous_kinds":
                found += [lambda r, i, k=k: i > 0 and self.bit(r, i - 1, k) for k in KINDS]
            elif spec == "repeats":
                found.append(lambda r, i: self.rows[r][i] in self.rows[r][:i])
            elif spec == "frequency":
                found += [lambda r, i, f=f: (int(self.kinds[self.rows[r][i]]) >> 16) - 1 == f for f in range(8)]
            elif spec.startswith("label:kind:"):
                found += [lambda r, i, v=v: self.labels[r][i] == v for v in range(int(spec[11:]))]
            else:
                raise ValueError(spec)
        return found

    def members(self, specs):
        """For each group the numbers of its tokens."""
        return [
            np.array([t for t, (r, i) in enumerate(self.tokens) if group(r, i)], int) for group in self.groups(specs)
        ]

    def allowed(self, layer, i):
        """The keys that a query may look at."""
        config = self.model.anatomy.config
        window = getattr(config, "sliding_window", None)
        kinds = getattr(config, "layer_types", None)
        if window is not None and (kinds is None or kinds[layer] == "sliding_attention"):
            return list(range(max(0, i - window + 1), i + 1))
        if config.model_type == "gpt_neo" and config.attention_layers[layer] == "local":
            return list(range(max(0, i - config.window_size + 1), i + 1))
        return list(range(i + 1))


def layers_of(corpus, name):
    return [site.layer for site in corpus.model.anatomy.sites(name)]


def mean(values, axis=0):
    values = np.asarray(values, float)
    return values.mean(axis) if len(values) else np.full(values.shape[1:], np.nan)


def stream_moments(corpus, site="resid_post"):
    found = defaultdict(list)
    later = np.array([i >= 4 for _, i in corpus.tokens])
    found["later_n"] = later.sum()
    for layer in layers_of(corpus, site):
        x = corpus.flat(site, layer)
        norms = np.sqrt((x**2).sum(-1))
        for prefix, some in (("", later | True), ("later_", later)):
            own, lengths = x[some], norms[some]
            found[f"{prefix}mean"].append(mean(own))
            found[f"{prefix}variance"].append(mean((own - mean(own)) ** 2))
            found[f"{prefix}second_moment"].append(mean(own**2))
            found[f"{prefix}cosine"].append(mean(own / lengths[..., None]))
            found[f"{prefix}largest"].append(np.abs(own).max(0, initial=0))
            found[f"{prefix}norm"].append(mean(lengths))
            found[f"{prefix}log_norm"].append(mean(np.log(lengths)))
        sizes = np.sort(np.abs(x).flatten())
        for name, share in (("median_size", 0.5), ("size_999", 0.999)):
            value = sizes[math.ceil(share * len(sizes)) - 1]
            # down to an eighth of the octave
            octave = math.floor(math.log2(value))
            found[name].append(2.0**octave * (1 + math.floor((value / 2.0**octave - 1) * 8) / 8))
    return found


def second_moments(corpus, site="resid_post", layers=None, groups=()):
    found, members = defaultdict(list), corpus.members(groups)
    within = np.array(sorted({token for some in members for token in some}), dtype=int)
    for layer in layers_of(corpus, site) if layers is None else layers:
        x = corpus.flat(site, layer)
        if groups:
            found["group_mean"].append([mean(x[some]) for some in members])
            x = x[within]
        found["mean"].append(x.mean(0))
        found["second_moment"].append(mean([np.outer(row, row) for row in x]))
        found["covariance"].append(mean([np.outer(row - x.mean(0), row - x.mean(0)) for row in x]))
    return found | ({"n_group": [len(some) for some in members]} if groups else {})


def head_moments(corpus, groups=("position",)):
    found = defaultdict(list)
    for layer in layers_of(corpus, "z"):
        z = corpus.flat("z", layer)
        found["mean"].append(z.mean(0))
        heads = range(z.shape[1])
        found["second_moment"].append([mean([np.outer(v, v) for v in z[:, h]]) for h in heads])
        found["group_mean"].append([mean(z[some]) for some in corpus.members(groups)])
    return found | {"n_group": [len(some) for some in corpus.members(groups)]}


def neuron_moments(corpus, of=("mlp_post", "mlp_gate")):
    found = defaultdict(list)
    for site in of:
        if site in corpus.model.anatomy.lacks:
            continue
        for layer in layers_of(corpus, site):
            x = corpus.flat(site, layer)
            away = x - x.mean(0)
            shown = {
                "mean": x.mean(0),
                "variance": (away**2).mean(0),
                "skewness": (away**3).mean(0) / (away**2).mean(0) ** 1.5,
                "kurtosis": (away**4).mean(0) / (away**2).mean(0) ** 2,
                "max": x.max(0),
                "min": x.min(0),
                "fires": (x > 0).mean(0),
            }
            for name, values in shown.items():
                found[f"{site}_{name}"].append(values)
    return found


def neuron_histograms(corpus, site="mlp_post"):
    sizes = [m * 2.0**e for e in range(-8, 8) for m in (1, 1.5)]
    edges = np.array([-np.inf, *(-s for s in reversed(sizes)), *sizes, np.inf], np.float32)
    inner = [e if abs(e) < abs(f) else f for e, f in zip(edges[:-1], edges[1:], strict=True)]
    inner[len(sizes)] = 0
    found = defaultdict(list)
    for layer in layers_of(corpus, site):
        x = corpus.flat(site, layer).astype(np.float32)
        counts = np.zeros((x.shape[1], len(edges) - 1), int)
        for token in x:
            for unit, value in enumerate(token):
                inside = [b for b in range(len(inner)) if edges[b] < value < edges[b + 1] or value == inner[b]]
                counts[unit, inside[0]] += 1
        found["count"].append(counts)
        found["quantile"].append(
            [
                [
                    inner[next(b for b in range(len(row)) if row[: b + 1].sum() >= max(1, math.ceil(q * len(x))))]
                    for q in (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999)
                ]
                for row in counts
            ]
        )
    return found | {"lower": edges[:-1]}


def neuron_groups(corpus, site="mlp_post", groups=("any", "position", "kinds", "previous_kinds", "repeats"), skip=0):
    found = defaultdict(list)
    members = [np.array([t for t in some if corpus.tokens[t][1] >= skip], int) for some in corpus.members(groups)]
    for layer in layers_of(corpus, site):
        x = corpus.flat(site, layer)
        for name, value in (("mean", x), ("fires", x > 0)):
            found[name].append([mean(value[some]) for some in members])
        found["variance"].append(
            [mean((x[some] - mean(x[some])) ** 2) if len(some) else mean(x[some]) for some in members]
        )
    return found | {"n": [len(some) for some in members]}


def by_document(corpus, name, gate, most, skip):
    """Each document's tokens past the first of every row."""
    of = defaultdict(list)
    for place, (r, i) in enumerate(corpus.tokens):
        if i >= skip and corpus.documents[r] < most:
            of[corpus.documents[r]].append(place)
    layers = layers_of(corpus, name)
    statistics = {"mean": [], "largest": [], "fires": []}
    for places in of.values():
        x = np.stack([corpus.flat(name, layer)[places] for layer in layers], 1)
        g = np.stack([corpus.flat(gate, layer)[places] for layer in layers], 1)
        for what, values in (("mean", x.mean(0)), ("largest", x.max(0)), ("fires", (g > 0).mean(0))):
            statistics[what].append(values)
    return {"document": list(of), "n": [len(places) for places in of.values()], **statistics}


def neuron_documents(corpus, most=400, skip=1):
    gated = "mlp_gate" not in corpus.model.anatomy.lacks
    return by_document(corpus, "mlp_post", "mlp_gate" if gated else "mlp_post", most, skip)


def expert_documents(corpus, most=400, skip=1):
    return by_document(corpus, "expert", "expert", most, skip)


def neuron_windows(corpus, site="mlp_post", k=20, per_document=True):
    found = defaultdict(list)
    for layer in layers_of(corpus, site):
        x = corpus.flat(site, layer).astype(np.float32)
        for end, sign in (("top", 1), ("bottom", -1)):
            rows = []
            for unit in range(x.shape[1]):
                order = sorted(range(len(x)), key=lambda t, unit=unit, sign=sign: (-sign * x[t, unit], t))
                taken, documents = [], []
                for token in order:
                    document = corpus.documents[corpus.tokens[token][0]]
                    if len(taken) < k and not (per_document and document in documents):
                        taken.append(token)
                        documents.append(document)
                empty = k - len(taken)
                rows.append(
                    ([*x[taken, unit], *[np.nan] * empty], [*taken, *[-1] * empty], [*documents, *[-1] * empty])
                )
            for name, values in zip((end, f"{end}_place", f"{end}_document"), zip(*rows, strict=True), strict=True):
                found[name].append(values)
    return found


def scrambled(place, seed):
    """Splitmix64 with Python's integers."""
    whole = 2**64 - 1
    x = (place + seed * 0x9E3779B97F4A7C15 + 0x9E3779B97F4A7C15) & whole
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & whole
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & whole
    return (x ^ (x >> 31)) >> 1


def reservoir(corpus, of=("resid_post",), size=1000, seed=0):
    places = sorted(sorted(range(len(corpus.tokens)), key=lambda t: scrambled(t, seed))[:size])
    found = {
        "place": places,
        "id": [corpus.rows[r][i] for r, i in (corpus.tokens[t] for t in places)],
        "position": [corpus.tokens[t][1] for t in places],
    }
    for site in of:
        found[site] = np.stack([corpus.flat(site, layer)[places] for layer in layers_of(corpus, site)], 1)
    return found


def output_statistics(corpus, groups=("any", "position"), per_token=False):
    measures = defaultdict(list)
    predicting = []
    for t, (r, i) in enumerate(corpus.tokens):
        row = corpus.rows[r]
        if i + 1 == len(row):
            continue
        predicting.append(t)
        logits = corpus.runs[r].logits[0, i].detach().numpy()
        log_p = logits - logits.max() - math.log(np.exp(logits - logits.max()).sum())
        rank = 1 + sum(logits > logits[row[i + 1]])
        numbers = (-log_p[row[i + 1]], -(np.exp(log_p) * log_p).sum(), np.exp(log_p.max()), rank, math.log(rank))
        for name, value in zip(("loss", "entropy", "p_max", "rank", "log_rank"), numbers, strict=True):
            measures[name].append(value)
        measures["first"].append(float(rank == 1))
    found = defaultdict(list)
    for some in corpus.members(groups):
        at = [predicting.index(t) for t in some if t in predicting]
        found["n"].append(len(at))
        for name, values in measures.items():
            own = np.array(values)[at]
            found[name].append(mean(own))
            found[f"{name}_variance"].append(mean((own - mean(own)) ** 2))
    if per_token:
        found |= {f"token_{name}": values for name, values in measures.items()} | {"place": predicting}
    return found


def router_counts(corpus, groups=("any", "position", "kinds", "previous_kinds", "repeats")):
    found = defaultdict(list)
    for layer in layers_of(corpus, "expert"):
        x = corpus.flat("expert", layer)
        found["chosen"].append([mean(x[some] != 0) for some in corpus.members(groups)])
        found["weight"].append([mean(x[some]) for some in corpus.members(groups)])
        found["together"].append(sum(np.outer(row != 0, row != 0).astype(float) for row in x))
    return found | {"n": [len(some) for some in corpus.members(groups)]}


def token_counts(corpus, n=2):
    unigram = Counter(token for row in corpus.rows for token in row)
    runs = Counter(tuple(row[i : i + n]) for row in corpus.rows for i in range(len(row) - n + 1) if n > 1)
    listed = sorted(runs)
    return {
        "unigram": [unigram[token] for token in range(corpus.model.d_vocab)],
        "ids": np.array(listed, int).reshape(-1, n),
        "count": [runs[run] for run in listed],
    }


DISTANCES = [*range(32), *(int(2 ** (5 + step / 4)) for step in range(31))]


def attention_offsets(corpus, skip=4):
    found = defaultdict(list)
    queries = [(r, i) for r, i in corpus.tokens if i >= max(1, skip)]
    for layer in layers_of(corpus, "pattern"):
        maps = corpus.at("pattern", layer)
        heads = len(maps[0])
        pairs = [[] for _ in DISTANCES]
        for r, i in queries:
            for j in corpus.allowed(layer, i):
                if j > 0:
                    pairs[sum(start <= i - j for start in DISTANCES) - 1].append((r, i, j))
        weights = [[[maps[r][h, i, j] for r, i, j in some] for some in pairs] for h in range(heads)]
        found["pairs"].append([len(some) for some in pairs])
        found["uniform"].append([mean([1 / len(corpus.allowed(layer, i)) for _, i, _ in some]) for some in pairs])
        found["mean"].append([[mean(w) for w in of_head] for of_head in weights])
        found["variance"].append([[mean((np.array(w) - mean(w)) ** 2) for w in of_head] for of_head in weights])
        found["mass"].append([[sum(w) / len(queries) for w in of_head] for of_head in weights])
        sinks = np.array([[maps[r][h, i, 0] for r, i in queries] for h in range(heads)])
        found["sink"].append(sinks.mean(1))
        found["sink_variance"].append(sinks.var(1))
        found["uniform_sink"].append(
            mean([1 / len(corpus.allowed(layer, i)) if 0 in corpus.allowed(layer, i) else 0 for _, i in queries])
        )
        found["outside"].append([mean([1 - maps[r][h, i].sum() for r, i in queries]) for h in range(heads)])
    return found


def keys_in_relation(row, words, name, i):
    earlier = [j for j in range(i) if row[j] == row[i]]
    word = [j for j in range(i) if words[j] == words[i]]
    start = (word + [i])[0]
    return {
        "previous": [i - 1] if i else [],
        "current": [i],
        "first": [0] if i else [],
        "duplicate": earlier[-1:],
        "induction": [j + 1 for j in earlier[-1:] if j + 1 < i],
        "same_token": earlier,
        "first_same": earlier[:1],
        "same_word": word,
        "word_start": word[:1],
        "previous_word": [start - 1] if start else [],
        "before_word": [start - 1] if start and start < i else [],
        "before_start": [start - 1] if start and start == i else [],
    }[name]


RELATIONS = "previous current first duplicate induction same_token first_same same_word word_start previous_word before_word before_start".split()


def attention_relations(corpus, relations=RELATIONS, skip=4):
    found = defaultdict(list)
    words = []
    for r, row in enumerate(corpus.rows):
        number = 0
        words.append([])
        for i in range(len(row)):
            number += i > 0 and corpus.bit(r, i, "starts_word")
            words[-1].append(number)
    for layer in layers_of(corpus, "pattern"):
        maps = corpus.at("pattern", layer)
        cells = defaultdict(list)
        for name in relations:
            queries = []
            for r, i in corpus.tokens:
                allowed = corpus.allowed(layer, i)
                keys = [j for j in keys_in_relation(corpus.rows[r], words[r], name, i) if j in allowed]
                if keys and i >= skip:
                    queries.append((r, i, keys))
            mass, hits = [], []
            for of_head in range(len(maps[0])):
                mass.append([sum(maps[r][of_head, i, j] for j in keys) for r, i, keys in queries])
                hits.append(
                    [
                        max(maps[r][of_head, i, j] for j in keys) >= max([0, *maps[r][of_head, i, 1 : i + 1]])
                        for r, i, keys in queries
                    ]
                )
            cells["n"].append(len(queries))
            cells["uniform"].append(mean([len(keys) / len(corpus.allowed(layer, i)) for _, i, keys in queries]))
            cells["mean"].append([mean(m) for m in mass])
            cells["variance"].append([mean((np.array(m) - mean(m)) ** 2) for m in mass])
            cells["hits"].append([mean(h) for h in hits])
        for name, values in cells.items():
            found[name].append(np.array(values).T if name in ("mean", "variance", "hits") else values)
    return found


def attention_received(
    corpus, queries=("any", "kinds"), keys=("any", "position", "kinds", "repeats"), skip=4
):  # fmt: skip
    from_groups, to_groups = corpus.groups(queries), corpus.groups(keys)
    found = defaultdict(list)
    counted = [[(r, i) for r, i in corpus.tokens if i >= skip and group(r, i)] for group in from_groups]
    for layer in layers_of(corpus, "pattern"):
        maps, values = corpus.at("pattern", layer), corpus.at("v", layer)
        heads = len(maps[0])
        weight = corpus.model.weights.W_O[layer].detach().numpy()
        shared = heads // values[0].shape[1]
        sizes = [
            np.linalg.norm([[v @ w for v, w in zip(at.repeat(shared, 0), weight, strict=True)] for at in row], axis=-1)
            for row in values
        ]
        cells = {name: np.full((heads, len(counted), len(to_groups)), np.nan) for name in ("attention", "value")}
        uniform = np.full((len(counted), len(to_groups)), np.nan)
        for g, some in enumerate(counted):
            for k, group in enumerate(to_groups):
                pairs = [(r, i, j) for r, i in some for j in corpus.allowed(layer, i) if group(r, j)]
                if some:
                    uniform[g, k] = sum(1 / len(corpus.allowed(layer, i)) for _, i, _ in pairs) / len(some)
                for h in range(heads) if some else ():
                    cells["attention"][h, g, k] = sum(maps[r][h, i, j] for r, i, j in pairs) / len(some)
                    cells["value"][h, g, k] = sum(maps[r][h, i, j] * sizes[r][j, h] for r, i, j in pairs) / len(some)
        found["uniform"].append(uniform)
        for name in ("attention", "value"):
            found[name].append(cells[name])
    found["n"] = [len(some) for some in counted]
    found["n_key"] = [sum(group(r, i) for r, i in corpus.tokens) for group in to_groups]
    return found


def query_key_means(corpus, turned):
    """``turned(x, position, layer)`` turns a query or key back to position 0."""
    found = defaultdict(list)
    for name in ("q", "k"):
        for layer in layers_of(corpus, name):
            tokens = [turned(x[i], i, layer) for x in corpus.at(name, layer) for i in range(len(x))]
            found[name].append(mean(tokens))
    return found


def corpus_of(model, *, read, lengths=(9, 4, 14, 9, 3, 7, 1, 12), seed=0):
    """Rows in which tokens repeat, two to a document, with drawn kinds and labels."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda high, n: torch.randint(0, high, (n,), generator=generator)  # noqa: E731
    rows = [(1 + draw(9, n)).tolist() for n in lengths]
    kinds = draw(2 ** len(KINDS), model.d_vocab) | ((1 + draw(8, model.d_vocab)) << 16)
    labels = [draw(3, n).tolist() for n in lengths]
    documents = [r // 2 for r in range(len(rows))]
    return Corpus(model, rows, documents, kinds, labels, read)
