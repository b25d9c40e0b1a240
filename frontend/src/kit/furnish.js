// What every page has beside its sections: a list of them, and a menu of files.

import { contents } from "./contents.js";
import { filesMenu } from "./files.js";

/** Furnish a page that has been drawn; `doc` is its document, for the reader to save. */
export function furnish(main, doc) {
  contents(main);
  reachable(main);
  addEventListener("resize", () => reachable(main));
  main.querySelector(".masthead")?.append(filesMenu(main, doc));
  document.documentElement.dataset.ready = "";
}

// What scrolls sideways scrolls by the arrow keys too.
function reachable(main) {
  for (const box of main.querySelectorAll(".sideways, .scroll-x, .cb-scroll")) {
    if (box.scrollWidth > box.clientWidth) box.setAttribute("tabindex", 0);
    else box.removeAttribute("tabindex");
  }
}
