"""Documents of plain data: what was computed of a model, in one form for every view."""
