"""What figures are drawn from: numbers of a run or of a circuit, ready to be placed."""
