"""How tokens mix, layer by layer (PRIMER 3.1.12 to 3.1.21)."""
