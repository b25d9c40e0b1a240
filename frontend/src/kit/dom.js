// Elements built from data without markup: every text becomes a text node, so no data can become HTML.

const SVG = "http://www.w3.org/2000/svg";

/** An HTML element. `props` holds attributes, and `on` (listeners) and `style` (properties) as objects. */
export const h = (tag, props, ...children) => fill(document.createElement(tag), props, children);

/** An SVG element, as `h`. */
export const s = (tag, props, ...children) => fill(document.createElementNS(SVG, tag), props, children);

function fill(element, props, children) {
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") {
      for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    } else if (name === "style") {
      // Through the object model: the page's policy forbids style attributes.
      for (const [property, setting] of Object.entries(value)) element.style.setProperty(property, setting);
    } else {
      element.setAttribute(name, value === true ? "" : value);
    }
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return element;
}

/** Replaces what an element holds. */
export function put(element, ...children) {
  element.replaceChildren(
    ...children.flat(Infinity).filter((child) => child !== null && child !== undefined),
  );
  return element;
}

const MARKS = /[␣↵⇥∅]/u;

/** A token's visible text with its whitespace marks set back, so that the letters are read first. */
export function tokenText(visible) {
  return visible
    .split(/([␣↵⇥∅]+)/u)
    .filter(Boolean)
    .map((part) => (MARKS.test(part) ? h("i", { class: "mark" }, part) : part));
}

/** A token as it stands in a sentence. */
export const tokenChip = (token, kind = "") => h("span", { class: `chip ${kind}` }, tokenText(token.visible));
