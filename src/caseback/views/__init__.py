"""Reports as text, pages and figures: what is drawn here was computed below."""
