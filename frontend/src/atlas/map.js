// The model as a map, one kind at a time: heads and experts as a field of layers × numbers, shaded by their score;
// neurons as a strip for each layer, with a line where a labeled one stands.

import { h, put, s } from "../kit/dom.js";
import { count, number } from "../kit/numbers.js";
import { painted, sequential } from "../kit/theme.js";
import { place } from "./looks.js";

const WIDE = 1000; // of a strip's own coordinates
const TALL = 14;
const LISTED = 24;

const says = ({ unit, score, control, labeled, proved }) =>
  `${unit}: ${score === null ? "no score" : number(score)}` +
  (control === null || control === undefined ? "" : `, control ${number(control)}`) +
  (proved ? ", proved" : labeled ? ", label" : "");

/** `rows` of one kind as a map; `open(name)` shows a unit's card. */
export function mapOf(kind, rows, layers, open) {
  return kind.sort === "neuron" ? strips(kind, rows, layers, open) : field(kind, rows, layers, open);
}

function field(kind, rows, layers, open) {
  const width = 1 + Math.max(0, ...rows.map(({ unit }) => place(unit)?.index ?? 0));
  const most = Math.max(1e-30, ...rows.map(({ score, bound }) => Math.max(score ?? 0, bound)));
  const at = new Map(rows.map((row) => [row.unit, row]));
  const letter = kind.sort === "expert" ? "E" : "H";
  const line = (layer) =>
    h(
      "tr",
      {},
      h("th", { scope: "row" }, String(layer)),
      Array.from({ length: width }, (_, index) => {
        const row = at.get(`L${layer}${letter}${index}`);
        if (!row) return h("td", {});
        const button = h("button", {
          type: "button",
          class: `unit ${row.proved ? "proved" : row.labeled ? "labeled" : ""}`,
          title: says(row),
          "aria-label": says(row),
          on: { click: () => open(row.unit) },
        });
        painted(() => button.style.setProperty("--shade", sequential(Math.max(0, row.score ?? 0) / most).fill));
        return h("td", {}, button);
      }),
    );
  return h(
    "div",
    { class: "sideways" },
    h(
      "table",
      { class: "field" },
      h("caption", {}, `layers by ${kind.sort}s, layers upwards`),
      h("thead", {}, h("tr", {}, h("th", {}, ""), Array.from({ length: width }, (_, i) => h("th", { scope: "col" }, String(i))))),
      h("tbody", {}, Array.from({ length: layers }, (_, i) => line(layers - 1 - i))),
    ),
  );
}

function strips(kind, rows, layers, open) {
  const per = kind.units / Math.max(1, layers);
  const most = Math.max(1e-30, ...rows.map(({ score }) => score ?? 0));
  const lines = Array.from({ length: layers }, (_, i) => layers - 1 - i).map((layer) => {
    const own = rows.filter(({ unit }) => place(unit)?.layer === layer);
    const marks = own.map((row) => {
      const tall = (TALL * Math.max(0.15, (row.score ?? 0) / most)).toFixed(1);
      const x = ((WIDE * place(row.unit).index) / per).toFixed(1);
      const way = { x, width: 3, y: TALL - tall, height: tall, class: row.proved ? "proved" : row.labeled ? "labeled" : "" };
      return s("rect", { ...way, on: { click: () => open(row.unit) } }, s("title", {}, says(row)));
    });
    const box = { viewBox: `0 0 ${WIDE} ${TALL}`, preserveAspectRatio: "none", role: "img" };
    return h(
      "div",
      { class: "strip" },
      h("span", { class: "num" }, String(layer)),
      s("svg", { ...box, "aria-label": `layer ${layer}: ${count(own.length)} neurons` }, marks),
    );
  });
  const strongest = [...rows].sort((a, b) => b.proved - a.proved || (b.score ?? 0) - (a.score ?? 0)).slice(0, LISTED);
  return [
    h("div", { class: "strips" }, lines),
    h(
      "p",
      { class: "strongest" },
      strongest.map((row) =>
        h(
          "button",
          { type: "button", class: `name ${row.proved ? "proved" : ""}`, title: says(row), on: { click: () => open(row.unit) } },
          row.unit,
        ),
      ),
    ),
  ];
}

/** Replaces a map by that of another kind. */
export const draw = (element, ...of) => put(element, mapOf(...of));
