// The pages that are written as HTML: what they show stands there already, and is furnished.

import { pageDocument } from "../kit/document.js";
import { furnish } from "../kit/furnish.js";

pageDocument().then((doc) => furnish(document.querySelector("main"), doc));
