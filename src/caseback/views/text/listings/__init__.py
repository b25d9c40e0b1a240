"""What commands list, in the terminal: techniques, tasks, organisms, jobs, notes."""
