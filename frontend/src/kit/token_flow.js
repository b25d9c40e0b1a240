// The prompt as running tokens, each coloured by a number. Used wherever a number belongs to an input token.

import { h, tokenText } from "./dom.js";
import { painted } from "./theme.js";
import { hideTip, showTip } from "./tooltip.js";

/**
 * tokens: [{text, visible}]; options: label (for screen readers), tip(i) → nodes, onToken(i | null, pinned),
 * say(i) → text (of one token, for screen readers),
 * bars ("none", "small" below each token, or "wide": one row of columns over the whole width, with the numbers).
 * Returns {element, colour(i → {fill, ink}), size(i → [−1, 1], i → text), enlarge(i → pixels), mark(i)}.
 */
export function tokenFlow(tokens, { label, tip, onToken, say, bars = "none" }) {
  const barred = bars !== "none";
  let colourOf = () => null;
  let active = 0,
    marked = null;
  const cells = tokens.map((token, index) => {
    const text = h("span", { class: "token-text" }, tokenText(token.visible));
    const bar = barred ? h("span", { class: "token-bar" }, h("span", {})) : null;
    const value = bars === "wide" ? h("span", { class: "token-value" }) : null;
    const told = say ? { role: "img", "aria-label": say(index) } : {};
    return h("span", { class: "token", "data-i": index, tabindex: index ? -1 : 0, ...told }, text, bar, value);
  });
  // A line of the prompt ends where its newline token does.
  const flowed = cells.flatMap((cell, i) => (tokens[i].text.includes("\n") ? [cell, h("br", {})] : [cell]));
  const element = h(
    "div",
    { class: barred ? `flow barred ${bars}` : "flow", role: "group", "aria-label": label, dir: "auto" },
    flowed,
  );

  const indexOf = (event) => {
    const cell = event.target.closest?.(".token");
    return cell ? Number(cell.dataset.i) : null;
  };
  const move = (to) => {
    if (to < 0 || to >= cells.length) return;
    cells[active].tabIndex = -1;
    active = to;
    cells[active].tabIndex = 0;
    cells[active].focus();
  };
  element.addEventListener("pointermove", (event) => {
    const i = indexOf(event);
    if (i === null) return leave();
    onToken?.(i, false);
    if (tip) showTip(tip(i), event.clientX, event.clientY);
  });
  element.addEventListener("pointerleave", leave);
  function leave() {
    hideTip();
    onToken?.(null, false);
  }
  element.addEventListener("click", (event) => {
    const i = indexOf(event);
    if (i !== null) onToken?.(i, true);
  });
  element.addEventListener("keydown", (event) => {
    const step = {
      ArrowRight: 1,
      ArrowDown: 1,
      ArrowLeft: -1,
      ArrowUp: -1,
      Home: -active,
      End: cells.length - 1 - active,
    }[event.key];
    if (step !== undefined) {
      event.preventDefault();
      move(active + step);
    } else if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      onToken?.(active, true);
    }
  });
  element.addEventListener("focusin", (event) => {
    const i = indexOf(event);
    if (i === null) return;
    active = i;
    if (!cells[i].matches(":focus-visible")) return;
    onToken?.(i, false);
    const { left, bottom } = cells[i].getBoundingClientRect();
    if (tip) showTip(tip(i), left, bottom - 6);
  });
  element.addEventListener("focusout", leave);

  const shownColours = cells.map(() => null);
  const paint = () =>
    cells.forEach((cell, i) => {
      const colour = colourOf(i);
      // A thousand tokens are repainted at every move over a pattern; most keep their colour.
      if (colour === shownColours[i]) return;
      shownColours[i] = colour;
      const { style } = cell.firstChild;
      style.setProperty("background", colour?.fill ?? "none");
      style.setProperty("color", colour?.ink ?? "inherit");
    });
  painted(paint);

  return {
    element,
    colour(of) {
      colourOf = of;
      paint();
    },
    size(of, textOf) {
      if (!barred) return;
      cells.forEach((cell, i) => {
        const share = of(i);
        const { style } = cell.children[1].firstChild;
        cell.children[2]?.replaceChildren(textOf(i));
        style.setProperty("height", `${50 * Math.abs(share)}%`);
        style.setProperty(share < 0 ? "top" : "bottom", "50%");
        style.setProperty("background", share < 0 ? "var(--foil)" : "var(--target)");
      });
    },
    enlarge(of) {
      cells.forEach((cell, i) => cell.style.setProperty("font-size", `${of(i)}px`));
    },
    mark(index) {
      cells[marked]?.classList.remove("marked");
      marked = index;
      cells[marked]?.classList.add("marked");
    },
  };
}
