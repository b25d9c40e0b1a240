"""The Primer's section 2: weight matrices, exact sums, and what reads them."""
