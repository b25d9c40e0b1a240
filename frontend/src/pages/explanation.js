// The page of `caseback explain`: one prediction, its sections in the order in which one asks.

import { TOKENS, documentEnd } from "../kit/footer.js";
import { page } from "../kit/page.js";
import { attentionView } from "../sections/attention.js";
import { claimsView } from "../sections/claims.js";
import { componentsView } from "../sections/components.js";
import { header } from "../sections/header.js";
import { inputsView } from "../sections/inputs.js";
import { lensView } from "../sections/lens.js";
import { patchingView } from "../sections/patching.js";
import { storyView } from "../sections/story.js";

const READING = [
  [
    "Logit difference",
    "Logit of the target minus logit of the foil at the explained position. Plus one means that the target’s odds over the foil are e ≈ 2.7 times as high.",
  ],
  TOKENS,
  [
    "Lens",
    "Early layers need not speak the language of the output: a poor reading says little, a good one says much.",
  ],
  [
    "Direct attribution",
    "Counts what a component writes for the output itself, not what it does through later components.",
  ],
  [
    "Ablation",
    "Counts both, and what later components make up for. Large attribution with a small effect is often self-repair.",
  ],
];

page((doc) => [
  ...header(doc),
  storyView(doc),
  lensView(doc),
  inputsView(doc),
  componentsView(doc),
  attentionView(doc),
  patchingView(doc),
  claimsView(doc),
  documentEnd(doc, READING),
]);
