"""Documents of plain data: what was computed about a model, in one form for every view."""
