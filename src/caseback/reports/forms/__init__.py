"""The forms of what commands print with `--json`: a file for each kind of document, and what reads them."""
