// Did the claims hold: attributed against measured effects, and the explanation's own checks.

import { scaleLinear } from "d3-scale";
import { h, s } from "../kit/dom.js";
import { number, setting, signed } from "../kit/numbers.js";
import { tipTable, tipped } from "../kit/tooltip.js";
import { figure, part } from "../kit/part.js";
import { correlationWords, verdictOf } from "./lead.js";

const SHOWN = 24;

export function claimsView(doc) {
  const { ablations, checks } = doc;
  const { kind, spearman, entry } = ablations;
  const rows = [...ablations.rows].sort((a, b) => Math.abs(b.effect) - Math.abs(a.effect));
  const shown = rows.slice(0, SHOWN);
  const which = rows.length > shown.length ? `The ${shown.length} largest effects of ${rows.length}. ` : "";
  const agreement =
    spearman === null
      ? "Too few components for a rank correlation."
      : ["Rank correlation ", h("b", {}, `ρ = ${number(spearman)}`), `: ${correlationWords(spearman)}.`];
  return part(
    "claims",
    "Did the claims hold?",
    [
      `An attribution is a claim; an ablation tests it. Each component was replaced by ${kind === "zero" ? "zero" : "its mean"} and the prompt run again: the effect is what the logit difference lost.`,
      h("span", { class: "entry" }, `Primer ${entry}`),
    ],
    rows.length
      ? h(
          "div",
          { class: "split even" },
          figure(
            "Direct and measured",
            `${which}Above: attributed directly. Below: lost when ablated. Self-repair and indirect paths pull them apart.`,
            paired(shown),
          ),
          figure(
            "Agreement",
            [agreement, " On the diagonal, an ablation costs what the attribution said."],
            scatter(rows),
          ),
        )
      : h("p", { class: "note" }, "No component was ablated."),
    figure("Checks", null, checkList(checks)),
  );
}

const kindOf = (value) => (value < 0 ? "foil" : "target");

const effectTip = (row) =>
  tipTable(row.name, [
    ["attributed", signed(row.attributed)],
    ["measured", signed(row.effect)],
    ["measured − attributed", signed(row.effect - row.attributed)],
  ]);

function paired(rows) {
  const values = rows.flatMap((row) => [row.attributed, row.effect]);
  const low = Math.min(0, ...values),
    high = Math.max(0, ...values);
  const share = (value) => (100 * (value - low)) / (high - low || 1);
  const bar = (value, how) =>
    h("span", {
      class: `bar ${kindOf(value)} ${how}`,
      style: {
        left: `${share(Math.min(0, value))}%`,
        width: `${Math.max(0.4, share(Math.max(0, value)) - share(Math.min(0, value)))}%`,
      },
    });
  return h(
    "table",
    { class: "paired" },
    h(
      "thead",
      {},
      h(
        "tr",
        {},
        h("th", { scope: "col" }, "component"),
        h("th", { scope: "col" }, ""),
        h("th", { scope: "col", class: "num" }, "direct"),
        h("th", { scope: "col", class: "num" }, "measured"),
      ),
    ),
    h(
      "tbody",
      {},
      rows.map((row) =>
        tipped(
          h(
            "tr",
            { tabindex: 0 },
            h("th", { scope: "row", class: "mono" }, row.name),
            h(
              "td",
              { class: "pair" },
              h(
                "span",
                { class: "pair-track" },
                h("span", { class: "zero", style: { left: `${share(0)}%` } }),
                bar(row.attributed, "claimed"),
                bar(row.effect, "measured"),
              ),
            ),
            h("td", { class: "num" }, signed(row.attributed)),
            h("td", { class: "num" }, h("b", {}, signed(row.effect))),
          ),
          () => effectTip(row),
        ),
      ),
    ),
  );
}

function scatter(rows) {
  const width = 460,
    height = 360,
    pad = { left: 52, right: 16, top: 10, bottom: 44 };
  const values = rows.flatMap((row) => [row.attributed, row.effect]);
  const [low, high] = [Math.min(0, ...values), Math.max(0, ...values)];
  const room = (high - low || 1) * 0.08;
  const domain = [low - room, high + room];
  const x = scaleLinear(domain, [pad.left, width - pad.right]);
  const y = scaleLinear(domain, [height - pad.bottom, pad.top]);
  const text = (tick) => (tick === 0 ? "0" : String(tick).replace("-", "−"));
  const points = rows.map((row) =>
    tipped(
      s("circle", {
        class: kindOf(row.effect),
        cx: x(row.attributed),
        cy: y(row.effect),
        r: 5,
        tabindex: 0,
        role: "img",
        "aria-label": `${row.name}: attributed ${signed(row.attributed)}, measured ${signed(row.effect)}`,
      }),
      () => effectTip(row),
    ),
  );
  return s(
    "svg",
    {
      class: "scatter",
      viewBox: `0 0 ${width} ${height}`,
      role: "group",
      "aria-label": "Measured effect against attribution",
    },
    x
      .ticks(5)
      .map((tick) => [
        s("line", {
          class: tick === 0 ? "zero" : "tick",
          x1: x(tick),
          x2: x(tick),
          y1: pad.top,
          y2: height - pad.bottom,
        }),
        s(
          "text",
          { class: "axis", x: x(tick), y: height - pad.bottom + 16, "text-anchor": "middle" },
          text(tick),
        ),
      ]),
    y
      .ticks(5)
      .map((tick) => [
        s("line", {
          class: tick === 0 ? "zero" : "tick",
          x1: pad.left,
          x2: width - pad.right,
          y1: y(tick),
          y2: y(tick),
        }),
        s("text", { class: "axis", x: pad.left - 8, y: y(tick) + 3.5, "text-anchor": "end" }, text(tick)),
      ]),
    s("line", { class: "diagonal", x1: x(domain[0]), y1: y(domain[0]), x2: x(domain[1]), y2: y(domain[1]) }),
    s(
      "text",
      { class: "axis faint", x: width - pad.right, y: height - 8, "text-anchor": "end" },
      "attributed →",
    ),
    s(
      "text",
      {
        class: "axis faint",
        x: 14,
        y: pad.top,
        "text-anchor": "end",
        transform: `rotate(-90 14 ${pad.top})`,
      },
      "measured →",
    ),
    labels(rows, x, y, width),
    points,
  );
}

// The largest first; a label that would cover another stays out, its point still has a tip.
function labels(rows, x, y, width) {
  const taken = rows.map((row) => ({ x: x(row.attributed) - 5, y: y(row.effect) - 5, w: 10, h: 10 }));
  const clash = (a) =>
    taken.some((b) => a.x < b.x + b.w && b.x < a.x + a.w && a.y < b.y + b.h && b.y < a.y + a.h);
  return [...rows]
    .sort((a, b) => Math.abs(b.effect) - Math.abs(a.effect))
    .map((row) => {
      const w = 6.3 * row.name.length + 2,
        cx = x(row.attributed),
        cy = y(row.effect);
      const spots = [
        [cx + 8, cy - 6],
        [cx - 8 - w, cy - 6],
        [cx - w / 2, cy - 19],
        [cx - w / 2, cy + 8],
      ];
      const spot = spots
        .map(([left, top]) => ({ x: left, y: top, w, h: 12 }))
        .find((a) => a.x > 0 && a.x + w < width && !clash(a));
      if (!spot) return null;
      taken.push(spot);
      return s("text", { class: "point-label", x: spot.x + 1, y: spot.y + 10 }, row.name);
    });
}

function checkList(checks) {
  return h(
    "ul",
    { class: "checks" },
    checks.map((check) =>
      h(
        "li",
        { class: { held: "passed", weak: "weak", failed: "failed" }[verdictOf(check)] },
        h(
          "span",
          { class: "verdict" },
          h("span", { "aria-hidden": "true" }, { held: "✓", weak: "~", failed: "✕" }[verdictOf(check)]),
          ` ${verdictOf(check)}`,
        ),
        h(
          "span",
          { class: "check-name" },
          h("b", {}, check.name),
          h("span", { class: "note" }, check.detail),
        ),
        h(
          "span",
          { class: "num check-value" },
          number(check.value),
          h("span", { class: "faint" }, `limit ${setting(check.limit)}`),
        ),
      ),
    ),
  );
}
