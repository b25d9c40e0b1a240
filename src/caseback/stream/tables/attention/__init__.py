"""Tables of attention and of heads: where they look, from what to what, and what they write."""
