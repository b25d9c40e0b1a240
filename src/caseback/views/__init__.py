"""Reports as text, pages and figures: nothing is computed here, only drawn."""
