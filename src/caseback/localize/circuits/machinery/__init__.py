"""What techniques on circuits share, below them: masks, gates, writes, sizes."""
