"""What objects are, in a few facts and a short table: one file a wing."""
