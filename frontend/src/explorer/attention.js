// Where the heads of one layer look: every head as a thumbnail, the chosen one large, and beside it the same head in the
// model as it is, where parts of it are changed.

import { canvasGrid } from "../kit/canvas_grid.js";
import { h, put, tokenChip } from "../kit/dom.js";
import { number, percent } from "../kit/numbers.js";
import { painted, sequential } from "../kit/theme.js";
import { tipTable } from "../kit/tooltip.js";
import { noNumber } from "./state.js";

const THUMB = 84;
// attention mostly goes to one sink token; its square root keeps the rest of the row apart from nothing
const shade = (share) => sequential(Math.sqrt(share));

export function attentionView(doc, { head, onHead, onPick, onTrace }) {
  const { tokens, patterns, before, moved, layer } = doc;
  const n = tokens.length;
  const large = h("div", { class: "split even" });
  const title = h("h3", {});
  const take = h("div", {});
  const buttons = patterns.map((pattern, i) => {
    const apart = before ? ` ${percent(moved[i])}` : "";
    return h(
      "button",
      { class: "thumb", "aria-label": `L${layer}H${i}${apart}`, on: { click: () => choose(i) } },
      thumbnail(pattern),
      h("span", {}, h("span", { class: "mono" }, `L${layer}H${i}`), apart),
    );
  });

  function choose(i) {
    buttons.forEach((button, j) => button.setAttribute("aria-pressed", i === j));
    put(title, before ? `L${layer}H${i}: ${percent(moved[i])} of its attention is elsewhere under the changes` : `L${layer}H${i}`);
    put(take, h("button", { on: { click: () => onPick({ part: "head", layer, head: i }) } }, `take L${layer}H${i} away`), " ", h("button", { on: { click: () => onTrace({ part: "head", layer, head: i }) } }, `why does L${layer}H${i} look there?`));
    put(
      large,
      before
        ? [titled("As the model is", before[i], i), titled("Under the changes", patterns[i], i)]
        : h("div", { class: "grid-room" }, grid(patterns[i], i, "")),
    );
    onHead(i);
  }

  const titled = (words, pattern, i) => h("div", { class: "grid-room" }, h("h4", {}, words), grid(pattern, i, `, ${words.toLowerCase()}`));

  function grid(pattern, i, which) {
    return canvasGrid({
      rows: n,
      cols: n,
      left: 84,
      bottom: 84,
      upright: true,
      maxHeight: 604,
      start: "bottom",
      label: `Attention of L${layer}H${i}${which}: a row is a query token, a column a key token. Arrow keys move.`,
      size: (room) => {
        const side = Math.max(4, Math.min(30, Math.floor(Math.min(room, 560) / n)));
        return { cellWidth: side, cellHeight: side };
      },
      cell: (r, c) => (c > r && !pattern[r][c] ? null : { ...shade(pattern[r][c]), text: "" }),
      rowLabel: (r) => tokens[r].visible,
      colLabel: (c) => tokens[c].visible,
      tip: (r, c) =>
        tipTable(`L${layer}H${i}`, [
          ["query", [tokenChip(tokens[r]), ` ${r}`]],
          ["key", [tokenChip(tokens[c]), ` ${c}`]],
          ...(before ? [["as the model is", number(before[i][r][c])], ["under the changes", number(patterns[i][r][c])]] : [["attention", number(pattern[r][c])]]),
        ]),
      say: (r, c) => `${tokens[r].visible} to ${tokens[c].visible}: ${number(pattern[r][c])}`,
    }).element;
  }

  const wrong = noNumber("head", head, patterns.length);
  if (wrong) put(title, wrong);
  else choose(Number(head || 0));
  return h(
    "figure",
    {},
    h(
      "figcaption",
      {},
      h("h3", {}, `Where the heads of layer ${layer} look`),
      h("p", { class: "note" }, "A row is a query, a column a key; shades are of the square root. Choose a head to see it large."),
      before ? h("p", { class: "note" }, "Below each head: the share of its attention that is elsewhere under the changes, a mean over queries. Thumbnails are under the changes.") : null,
    ),
    h("div", { class: "thumbs" }, buttons),
    title,
    take,
    large,
  );
}

function thumbnail(pattern) {
  const n = pattern.length;
  const canvas = h("canvas", { width: n, height: n, "aria-hidden": "true" });
  canvas.style.setProperty("width", `${THUMB}px`);
  canvas.style.setProperty("height", `${THUMB}px`);
  painted(() => {
    const pixels = new ImageData(n, n);
    pattern.forEach((row, r) =>
      row.forEach((share, c) => {
        if (c > r && !share) return;
        const at = 4 * (r * n + c);
        pixels.data.set(shade(share).rgb, at);
        pixels.data[at + 3] = 255;
      }),
    );
    canvas.getContext("2d").putImageData(pixels, 0, 0);
  });
  return canvas;
}
