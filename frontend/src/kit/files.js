// What a page shows, as files: its document, each table, each picture.

import { h, put } from "./dom.js";

/** Hand the reader a file. */
export function download(name, content, type) {
  const blob = content instanceof Blob ? content : new Blob([content], { type });
  const link = h("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

const quoted = (text) => (/[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);

/** A table's cells as CSV, with true minus signs as spreadsheets read them. */
export const csv = (table) =>
  [...table.rows]
    .map((row) => [...row.cells].map((cell) => quoted(cell.textContent.trim().replaceAll("−", "-"))).join(","))
    .join("\n");

// What a drawing takes from the page's style sheets, which a file of its own does not have.
const DRAWN = "fill fill-opacity stroke stroke-width stroke-dasharray stroke-opacity stroke-linecap opacity font-family font-size font-weight text-anchor dominant-baseline display visibility".split(" ");

/** A drawing as a file that needs no style sheet, in the colors that it has now. */
export function svgFile(svg) {
  const copy = svg.cloneNode(true);
  const [own, copied] = [svg, copy].map((one) => [one, ...one.querySelectorAll("*")]);
  own.forEach((element, i) => {
    const style = getComputedStyle(element);
    for (const name of DRAWN) copied[i].style.setProperty(name, style.getPropertyValue(name));
  });
  const { width, height } = svg.getBoundingClientRect();
  if (!copy.hasAttribute("viewBox")) copy.setAttribute("viewBox", `0 0 ${width} ${height}`);
  copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
  copy.setAttribute("width", width);
  copy.setAttribute("height", height);
  copy.style.setProperty("background", getComputedStyle(document.body).backgroundColor);
  return new XMLSerializer().serializeToString(copy);
}

const LEAST = 150; // narrower drawings are marks and bars, not pictures

/** A menu of all that can be saved, made anew whenever it is opened. */
export function filesMenu(main, doc) {
  const list = h("ul", {});
  const menu = h("details", { class: "files" }, h("summary", {}, "Save"), list);
  const item = (words, kind, act) => h("li", {}, h("button", { type: "button", on: { click: act } }, words, h("small", {}, kind)));
  menu.addEventListener("toggle", () => {
    if (!menu.open) return;
    const name = `caseback-${(doc?.kind ?? "page").replace("caseback.", "")}`;
    const items = doc ? [item("This page’s data", "JSON", () => download(`${name}.json`, JSON.stringify(doc, null, 1), "application/json"))] : [];
    for (const element of main.querySelectorAll("table, svg, canvas")) {
      const title = titleOf(element);
      const { width } = element.getBoundingClientRect();
      if (element.matches("table")) {
        if (width) items.push(item(title, "CSV", () => download(`${name}.csv`, csv(element), "text/csv")));
      } else if (width >= LEAST && !element.closest("table")) {
        if (element.matches("svg")) items.push(item(title, "SVG", () => download(`${name}.svg`, svgFile(element), "image/svg+xml")));
        else items.push(item(title, "PNG", () => element.toBlob((blob) => download(`${name}.png`, blob))));
      }
    }
    put(list, items);
  });
  addEventListener("keydown", ({ key }) => {
    if (key === "Escape") menu.open = false;
  });
  addEventListener("click", ({ target }) => {
    if (!menu.contains(target)) menu.open = false;
  });
  return menu;
}

// The words over a table or picture: its caption, or the nearest heading before it.
function titleOf(element) {
  const own = element.querySelector("caption") ?? element.closest("figure")?.querySelector("figcaption h3, h3");
  if (own) return own.textContent;
  const heads = [...document.querySelectorAll("h1, h2, h3")];
  const before = heads.filter((head) => head.compareDocumentPosition(element) & Node.DOCUMENT_POSITION_FOLLOWING);
  return before.at(-1)?.textContent ?? "picture";
}
