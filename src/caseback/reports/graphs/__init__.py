"""What graphs of a prompt are made from, and what is read off any of them."""
