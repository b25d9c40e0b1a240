"""What commands list: rows of plain data, a row for each head, task, technique or method."""
