// The page: reads the document that it carries and lays out its sections in the order in which one asks.

import { h } from "./dom.js";
import { mountTooltip } from "./tooltip.js";
import { attributionsPage } from "./attributions_page.js";
import { weightsPage } from "./weights_page.js";
import { header } from "./views/header.js";
import { lensView } from "./views/lens.js";
import { inputsView } from "./views/inputs.js";
import { componentsView } from "./views/components.js";
import { attentionView } from "./views/attention.js";
import { patchingView } from "./views/patching.js";
import { claimsView } from "./views/claims.js";
import { footer } from "./views/footer.js";

const explanationPage = (doc) => [
  ...header(doc),
  lensView(doc),
  inputsView(doc),
  componentsView(doc),
  attentionView(doc),
  patchingView(doc),
  claimsView(doc),
  footer(doc),
];

const doc = JSON.parse(document.getElementById("explanation").textContent);
mountTooltip();
const pages = { "caseback.attributions": attributionsPage, "caseback.weights": weightsPage };
const parts = (pages[doc.kind] ?? explanationPage)(doc);
document.getElementById("report").append(h("div", { class: "page" }, parts.filter(Boolean)));
