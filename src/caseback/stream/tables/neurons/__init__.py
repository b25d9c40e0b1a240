"""Tables of neurons, and of any site of one number per unit: moments, ranges, groups, strongest tokens."""
