"""Attribution graphs: what each active feature reads, from whom, in a model whose attention and norms stand still."""
