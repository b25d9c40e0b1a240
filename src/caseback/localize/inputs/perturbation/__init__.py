"""What the metric loses without a token (PRIMER 3.1.7 to 3.1.11)."""
