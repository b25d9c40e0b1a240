// One tooltip for the page. It follows the pointer, or sits by the focused element, and stays inside the window.

import { h, put } from "./dom.js";

const box = h("div", { class: "tooltip", role: "tooltip", id: "tooltip" });
const MARGIN = 8;
const AWAY = 14;

export function mountTooltip() {
  document.body.append(box);
  addEventListener("keydown", (event) => event.key === "Escape" && hideTip());
  addEventListener("scroll", hideTip, { passive: true, capture: true });
}

/** Shows `content` beside the point (x, y) of the window. */
export function showTip(content, x, y) {
  put(box, content);
  box.classList.add("shown");
  const { offsetWidth: width, offsetHeight: height } = box;
  const { clientWidth, clientHeight } = document.documentElement;
  const right = x + AWAY + width + MARGIN <= clientWidth;
  const below = y + AWAY + height + MARGIN <= clientHeight;
  place(
    box,
    right ? x + AWAY : x - AWAY - width,
    below ? y + AWAY : y - AWAY - height,
    clientWidth,
    clientHeight,
  );
}

function place(element, x, y, clientWidth, clientHeight) {
  const inside = (at, extent, room) => Math.max(MARGIN, Math.min(at, room - extent - MARGIN));
  element.style.setProperty("left", `${inside(x, element.offsetWidth, clientWidth)}px`);
  element.style.setProperty("top", `${inside(y, element.offsetHeight, clientHeight)}px`);
}

export function hideTip() {
  box.classList.remove("shown");
}

/** Gives an element a tip for pointer and keyboard; `content` is made when it is needed. */
export function tipped(element, content) {
  element.addEventListener("pointermove", (event) => showTip(content(), event.clientX, event.clientY));
  element.addEventListener("pointerleave", hideTip);
  element.addEventListener("focus", () => {
    if (!element.matches(":focus-visible")) return;
    const { left, bottom } = element.getBoundingClientRect();
    showTip(content(), left, bottom - 6);
  });
  element.addEventListener("blur", hideTip);
  return element;
}

/** A tip's usual content: a heading and rows of [label, value]. */
export function tipTable(heading, rows, ...more) {
  return [
    h("div", { class: "tip-head" }, heading),
    h(
      "table",
      {},
      rows.map(([label, value]) => h("tr", {}, h("td", {}, label), h("td", { class: "num" }, value))),
    ),
    more,
  ];
}
