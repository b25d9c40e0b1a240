"""Where the parts of a model are: declared once per family, resolved on a model."""
