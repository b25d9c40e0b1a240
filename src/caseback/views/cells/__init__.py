"""What a notebook's cell shows of an object: summaries and documents."""
