"""What takes a pass or two of the model, or one sweep: the documents behind the explorer."""
