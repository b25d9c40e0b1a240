// The page of `caseback dictionary show`: its facts are written as HTML, and this puts the cards of features behind them.

import { pageDocument } from "../kit/document.js";
import { furnish } from "../kit/furnish.js";
import { part } from "../kit/part.js";
import { cardView } from "../sections/feature_card.js";

pageDocument().then((doc) => {
  const main = document.querySelector("main");
  const { cards } = doc;
  const carded = new Set(cards.map(({ feature }) => feature));
  const lede = "What each writes: the tokens’ logits that it raises and lowers on the direct path, and its neighbors.";
  if (cards.length) {
    const section = part("cards", "Features", lede, cards.map((card) => cardView(card, carded)));
    main.querySelector("footer").before(section);
  }
  furnish(main, doc);
});
