"""Relations as maps, and the heads that add an answer up (PRIMER 5.4.19)."""
