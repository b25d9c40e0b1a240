// Many prompts as a table: sorted, searched and sliced here; a row that is chosen becomes the prompt.

import { h, put, tokenChip } from "../kit/dom.js";
import { signed } from "../kit/numbers.js";
import { noName, tooLong } from "./state.js";

const MOST_BYTES = 250_000;

/** What to open: a task by its name, or lines of JSON that are pasted, chosen or dropped. */
export function tableControls({ tasks, now, onOpen }) {
  const { task, seed, count, lines: pasted, unlinked } = now();
  const problem = h("p", { class: "warn", role: "alert" });
  const name = h("select", { "aria-label": "task" }, h("option", { value: "" }, "lines of JSON"), tasks.map((one) => h("option", { value: one }, one)));
  let wrong = noName("task", task, tasks);
  if (wrong) name.selectedIndex = -1;
  else name.value = task || (pasted || unlinked ? "" : tasks.includes("ioi") ? "ioi" : (tasks[0] ?? ""));
  const many = h("input", { type: "number", min: 1, max: 256, value: count || 24, "aria-label": "how many", title: "how many" });
  const draw = h("input", { type: "number", min: 0, value: seed || 0, "aria-label": "seed", title: "seed" });
  const lines = h("textarea", {
    rows: 3,
    "aria-label": "lines of JSON",
    placeholder: JSON.stringify({ prompt: "Mary went to the", target: " store", foil: " park", kind: "place" }),
    spellcheck: "false",
    on: {
      dragover: (event) => event.preventDefault(),
      drop: (event) => {
        if (!event.dataTransfer?.files.length) return;
        event.preventDefault();
        read(event.dataTransfer.files[0]);
      },
    },
  });
  lines.value = pasted;
  const file = h("input", { type: "file", accept: ".jsonl,.json,.txt", "aria-label": "a file of lines of JSON", on: { change: () => file.files[0] && read(file.files[0]) } });
  const own = h("div", { class: "own-lines" }, lines, file);

  async function read(given) {
    if (given.size > MOST_BYTES) return put(problem, `${given.name} has ${given.size} bytes: ${MOST_BYTES} at most are taken.`);
    put(problem);
    lines.value = await given.text();
  }
  const show = () => {
    own.hidden = Boolean(name.value) || Boolean(wrong);
    many.hidden = draw.hidden = !name.value;
  };
  name.addEventListener("change", () => {
    wrong = "";
    show();
  });
  show();
  const form = () => (name.value ? { task: name.value, count: Number(many.value), seed: Number(draw.value) } : { lines: lines.value });
  const opened = () => (name.value ? { task: name.value, count: many.value, seed: draw.value, lines: "" } : { task: "", count: "", seed: "", lines: lines.value });
  function lacks() {
    if (wrong || name.value || lines.value.trim()) return wrong;
    const { unlinked: left } = now();
    return left
      ? `The link is of ${left} characters of lines, more than an address holds: paste them, or choose their file.`
      : "Paste lines of JSON, choose a file, or drop one on the field.";
  }
  function open(event) {
    event.preventDefault();
    const given = { ...opened(), unlinked: "", sort: "", search: "", slices: [] };
    put(problem, tooLong(given.lines) ? `These ${given.lines.length} characters of lines are more than an address holds: a link leads to this table without them.` : "");
    onOpen(given);
  }
  const element = h(
    "form",
    { class: "table-form", on: { submit: open } },
    h("div", { class: "table-line" }, name, many, draw, h("button", { type: "submit" }, "open")),
    own,
    problem,
  );
  return { element, form, lacks };
}

/** `now` has what a link says of the table: `sort`, a column after + (rising) or - (falling), `search` and `slices`. */
export function tableView(doc, { now, onLook, onRow }) {
  const { rows, columns, measure } = doc;
  const changed = rows.some((row) => row.value !== row.before);
  const heads = [
    ["prompt", (row) => row.prompt],
    ["target", (row) => row.target],
    ["foil", (row) => row.foil],
    ...columns.map((name) => [name, (row) => row.slices[name] ?? ""]),
    [measure, (row) => row.value],
    ...(changed ? [["before", (row) => row.before]] : []),
  ];
  const sorted = now.sort.slice(1);
  // what stood before a change is gone with the change, and is then the measure
  const named = sorted === "before" && !changed ? measure : sorted;
  const found = heads.findIndex(([name]) => name === named);
  const wrong =
    (now.sort && (found < 0 || !"+-".includes(now.sort[0])) ? `There is no column “${sorted.slice(0, 60)}” here to sort by: choose another.` : "") ||
    now.slices.map(([name, value]) => noName("column", name, columns) || noName(name, value, rows.map((row) => row.slices[name] ?? ""))).find(Boolean);
  if (wrong) return [h("p", { class: "warn", role: "alert" }, wrong), h("p", {}, h("button", { on: { click: () => onLook({ sort: "", slices: [] }, { again: true }) } }, "show the whole table"))];
  let by = found < 0 ? null : found;
  let falling = now.sort[0] !== "+";
  const look = () => {
    onLook({
      sort: by === null ? "" : `${falling ? "-" : "+"}${heads[by][0]}`,
      search: search.value,
      slices: slices.filter(([, { value }]) => value).map(([name, { value }]) => [name, value]),
    });
    draw();
  };
  const search = h("input", { type: "search", value: now.search, placeholder: "search the prompts", "aria-label": "search the prompts", on: { input: look } });
  const slices = columns.map((name) => {
    const values = [...new Set(rows.map((row) => row.slices[name] ?? ""))].sort();
    const select = h("select", { "aria-label": name, on: { change: look } }, h("option", { value: "" }, `${name}: all`), values.filter(Boolean).map((value) => h("option", { value }, value)));
    select.value = now.slices.find(([column]) => column === name)?.[1] ?? "";
    return [name, select];
  });
  const summary = h("p", { class: "note", "aria-live": "polite" });
  const body = h("tbody", {});
  const headings = heads.map(([name, of], i) =>
    h(
      "th",
      { scope: "col" },
      h("button", { class: "sort", on: { click: () => { falling = by === i ? !falling : typeof of(rows[0]) === "number"; by = i; look(); } } }, name),
    ),
  );

  function draw() {
    const text = search.value.toLowerCase();
    let shown = rows.filter((row) => row.prompt.toLowerCase().includes(text) && slices.every(([name, { value }]) => !value || row.slices[name] === value));
    if (by !== null) {
      const of = heads[by][1];
      shown = [...shown].sort((a, b) => (falling ? -1 : 1) * (typeof of(a) === "number" ? of(a) - of(b) : of(a).localeCompare(of(b))));
    }
    headings.forEach((th, i) => th.setAttribute("aria-sort", i !== by ? "none" : falling ? "descending" : "ascending"));
    const mean = (key) => shown.reduce((sum, row) => sum + row[key], 0) / shown.length;
    put(
      summary,
      shown.length
        ? `${shown.length} of ${rows.length} rows, mean ${measure} ${signed(mean("value"))}${changed ? `, was ${signed(mean("before"))}` : ""}${measure === "logit_diff" ? `; ${shown.filter((row) => row.value > 0).length} above 0` : ""}`
        : "no row is like that",
    );
    put(
      body,
      shown.map((row) => {
        const [target, foil] = [row.target, row.foil].map((text) => ({ visible: text.replaceAll(" ", "␣") }));
        return h(
          "tr",
          {},
          heads.map(([, of], i) => {
            const value = of(row);
            if (i === 0) return h("td", {}, h("button", { class: "row", dir: "auto", on: { click: () => onRow(row) } }, value));
            if (typeof value === "number") return h("td", { class: "num" }, signed(value));
            if (i === 1) return h("td", {}, tokenChip(target, "target"));
            return h("td", {}, i === 2 ? tokenChip(foil, "foil") : value);
          }),
        );
      }),
    );
  }
  draw();
  return h(
    "figure",
    {},
    h("figcaption", {}, h("h3", {}, doc.source ? `${rows.length} prompts of ${doc.source}` : `${rows.length} prompts`), h("p", { class: "note" }, "Choose a prompt to look at it above; choose a heading to sort.")),
    h("div", { class: "table-line" }, search, slices.map(([, select]) => select)),
    summary,
    h("div", { class: "table-room", tabindex: 0, role: "region", "aria-label": "the table" }, h("table", { class: "prompts" }, h("thead", {}, h("tr", {}, headings)), body)),
  );
}
