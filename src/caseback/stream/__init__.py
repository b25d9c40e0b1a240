"""One pass over a corpus: whatever needs the model's activations over text declares it, and is fed by the same pass."""
