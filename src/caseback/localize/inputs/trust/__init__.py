"""How far an attribution can be trusted (PRIMER 3.1.28)."""
