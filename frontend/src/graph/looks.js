// Why heads look where they look: of each head at a query and a key, the pairs of nodes that make most of its score.

import { h, tokenText } from "../kit/dom.js";
import { percent, signed } from "../kit/numbers.js";

/** {all(): every row, of(e, open): those of an edge's heads between its ends}; nodes, or null where there are none. */
export function looks(doc, see) {
  const rows = doc.attention ?? [];
  const { nodes, edges } = doc;
  const number = new Map(nodes.name.map((name, i) => [name, i]));
  const place = (pos) => [tokenText(see(doc.tokens[pos].text)), ` ${pos}`];
  const node = (name) => {
    const i = number.get(name);
    return h("span", {}, h("span", { class: "mono" }, name), i !== undefined && nodes.text[i] ? h("span", { class: "faint" }, " ", tokenText(see(nodes.text[i]))) : null);
  };

  function why({ head, query, key, pattern, share, score, pairs, centered }, open) {
    const most = Math.max(...pairs.map(([, , value]) => Math.abs(value)), 1e-30);
    return h(
      "details",
      { class: "graph-look", "data-head": head, open, on: { click: (event) => event.stopPropagation(), keydown: (event) => event.stopPropagation() } },
      h("summary", {}, `why ${head} looks from `, place(query), " at ", place(key)),
      h("p", { class: "note" }, `Attention ${percent(pattern)}; ${percent(Math.abs(share))} of the influence moves here${share < 0 ? ", against its edges" : ""}. Score ${signed(score)}${centered === false ? "" : " above the mean over keys"}, of which, node at the query × node at the key:`),
      h(
        "ol",
        { class: "bars edges graph-edge-list" },
        pairs.map(([from, to, value]) =>
          h(
            "li",
            {},
            h("span", { class: "bar-name", title: `${from} × ${to}` }, node(from), " × ", node(to)),
            h("span", { class: "bar-track" }, h("span", { class: "bar seq", style: { width: `${(100 * Math.abs(value)) / most}%` } })),
            h("span", { class: "bar-value" }, signed(value)),
          ),
        ),
      ),
    );
  }

  const between = (e) => {
    const named = new Set((edges.heads[e] ?? []).map(([name]) => name));
    const [key, query] = [nodes.pos[edges.source[e]], nodes.pos[edges.target[e]]];
    return rows.filter((row) => named.has(row.head) && row.query === query && row.key === key);
  };
  const listed = (some, open) => (some.length ? some.map((row) => why(row, open)) : null);
  return {
    all: () => listed(rows, false),
    of: (e, open = false) => listed(between(e), open),
  };
}
