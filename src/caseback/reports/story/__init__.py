"""The causal story of one answer: what was measured, in the order of cause, and the sentences that follow from it."""
