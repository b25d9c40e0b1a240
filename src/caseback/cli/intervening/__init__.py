"""What changes when something in the model is changed: patches, ablations, traces, circuits, alignments."""
