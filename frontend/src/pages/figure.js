// What a pointer or the arrow keys show of a figure's maps, what these are colored by, and its data in files.
// A script in a notebook's cell runs whenever the cell is shown: it takes care of every figure that none has taken care of.

import { download } from "../kit/files.js";
import { gunzip } from "../kit/gzip.js";

const MISSING = -32768;
const NS = "http://www.w3.org/2000/svg";

const whole = async (text) => new Int16Array(await gunzip(text).arrayBuffer());
const numbers = async ({ unit, q }) => Array.from(await whole(q), (i) => (i === MISSING ? NaN : i * unit));

/** A number as people read it, with a true minus sign. */
function shown(value, kind) {
  if (Number.isNaN(value)) return "–";
  if (kind === "rank") return String(Math.max(1, Math.round(value)));
  if (kind === "share") return `${(100 * value).toFixed(value < 0.0995 ? 1 : 0)}%`;
  const size = Math.abs(value);
  const digits = size === 0 || size >= 0.00095 ? value.toFixed(size >= 0.0995 ? 2 : 3) : value.toExponential(1);
  return (kind === "signed" && value > 0 ? "+" : "") + digits.replaceAll("-", "−");
}

async function live(figure) {
  figure.dataset.live = "";
  const svg = figure.querySelector("svg");
  const source = figure.querySelector('script[type="application/json"]');
  if (!svg || !source) return;
  const { maps, modes } = JSON.parse(source.textContent);
  for (const map of maps) {
    for (const one of map.shown) {
      one.values = await numbers(one);
      if (one.spread) one.off = await numbers(one.spread);
    }
    if (map.words) Object.assign(map.words, { at: await whole(map.words.i), share: await numbers(map.words.p) });
  }
  let mode = 0;

  const tip = document.createElement("div");
  tip.className = "cb-tip";
  tip.hidden = true;
  tip.setAttribute("role", "status");
  figure.append(tip);
  const cursor = document.createElementNS(NS, "rect");
  cursor.setAttribute("class", "cursor");
  cursor.style.display = "none";
  svg.append(cursor);

  // The first row of a map that runs upwards is its lowest.
  const top = (map, row) => map.y + map.ch * (map.up ? map.rows.length - 1 - row : row);

  function words(map, row, column) {
    const cell = row * map.cols.length + column;
    const of = map.only ? [map.shown[mode]] : map.shown;
    const lines = [
      [map.rowName, map.rows[row], map.colName, map.cols[column]].filter(Boolean).join(" "),
    ];
    if (map.words) {
      for (let k = 0; k < map.words.k; k++) {
        const at = map.words.at[cell * map.words.k + k];
        if (at >= 0) lines.push(`${map.words.list[at]}  ${shown(map.words.share[cell * map.words.k + k], "share")}`);
      }
    }
    for (const one of of) lines.push(`${one.name} ${shown(one.values[cell], one.kind)}${spread(one, cell)}`.trim());
    if (map.notes) lines.push(map.notes[cell]);
    return lines.filter(Boolean).join("\n");
  }

  const spread = (one, cell) => (one.off ? ` ± ${shown(one.off[cell], "")} sd` : "");

  let place = null;
  function point(next) {
    place = next;
    tip.hidden = !place;
    cursor.style.display = place ? "" : "none";
    if (!place) return;
    const { map, row, column } = place;
    const box = { x: map.x + map.cw * column, y: top(map, row), width: map.cw, height: map.ch };
    for (const [name, value] of Object.entries(box)) cursor.setAttribute(name, value);
    tip.textContent = words(map, row, column);
    const inside = figure.getBoundingClientRect();
    const drawn = svg.getBoundingClientRect();
    const share = drawn.width / svg.viewBox.baseVal.width;
    const x = drawn.left - inside.left + share * (box.x + box.width);
    const y = drawn.top - inside.top + share * (box.y + box.height);
    tip.style.left = `${Math.max(0, Math.min(x + 4, inside.width - tip.offsetWidth - 2))}px`;
    tip.style.top = `${y + 6}px`;
  }

  function under(event) {
    const drawn = svg.getBoundingClientRect();
    const share = svg.viewBox.baseVal.width / drawn.width;
    const [x, y] = [(event.clientX - drawn.left) * share, (event.clientY - drawn.top) * share];
    for (const map of maps) {
      const column = Math.floor((x - map.x) / map.cw);
      const down = Math.floor((y - map.y) / map.ch);
      if (column < 0 || down < 0 || column >= map.cols.length || down >= map.rows.length) continue;
      return { map, column, row: map.up ? map.rows.length - 1 - down : down };
    }
    return null;
  }

  if (maps.length) {
    svg.setAttribute("tabindex", 0);
    svg.addEventListener("pointermove", (event) => point(under(event)));
    svg.addEventListener("pointerleave", () => point(null));
    svg.addEventListener("blur", () => point(null));
    svg.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
      if (event.key === "Escape") point(null);
      if (!step) return;
      event.preventDefault();
      const { map, row, column } = place ?? { map: maps[0], row: 0, column: 0 };
      const to = [row + (map.up ? -step[0] : step[0]), column + step[1]];
      const most = [map.rows.length, map.cols.length];
      const [r, c] = place ? to.map((x, i) => Math.max(0, Math.min(most[i] - 1, x))) : [0, 0];
      point({ map, row: r, column: c });
    });
  }

  const tools = document.createElement("div");
  tools.className = "cb-tools";
  const button = (name, act, more = "") => {
    const made = document.createElement("button");
    made.type = "button";
    made.textContent = name;
    made.className = more;
    made.addEventListener("click", act);
    tools.append(made);
    return made;
  };
  const choosers = [...svg.querySelectorAll("[data-choose]")];
  const buttons = modes.length > 1 && !choosers.length ? modes.map((name, i) => button(name, () => choose(i))) : [];
  function choose(next) {
    mode = next;
    for (const part of svg.querySelectorAll("[data-mode]")) {
      part.setAttribute("display", Number(part.dataset.mode) === mode ? "inline" : "none");
    }
    buttons.forEach((one, i) => one.setAttribute("aria-pressed", i === mode));
    choosers.forEach((one) => one.classList.toggle("on", Number(one.dataset.choose) === mode));
    point(place);
  }
  for (const one of choosers) {
    one.addEventListener("click", () => choose(Number(one.dataset.choose)));
    one.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") choose(Number(one.dataset.choose));
    });
    one.setAttribute("tabindex", 0);
    one.setAttribute("role", "button");
  }
  if (modes.length > 1) choose(0);

  const quoted = (text) => (/[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  function table() {
    const lines = [];
    for (const map of maps) {
      for (const one of map.shown) {
        lines.push([one.name || "value", ...map.cols].map(quoted).join(","));
        map.rows.forEach((name, row) => {
          const values = one.values.slice(row * map.cols.length, (row + 1) * map.cols.length);
          lines.push([quoted(name), ...values.map((x) => (Number.isNaN(x) ? "" : Number(x.toPrecision(5))))].join(","));
        });
      }
    }
    return lines.join("\n");
  }
  if (maps.length) button("CSV", () => download("caseback.csv", table(), "text/csv"), "far").title = "the numbers, as a table";
  if (tools.childElementCount) figure.querySelector(".cb-scroll").before(tools);
  figure.dataset.live = "ready";
}

for (const figure of document.querySelectorAll(".cb-fig:not([data-live])")) live(figure);
