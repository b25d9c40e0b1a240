"""Pages of whole mechanisms."""
