"""The Primer's section 2: matrices, exact sums, and what reads them."""
