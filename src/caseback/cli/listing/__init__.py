"""What there is to work with: techniques, tasks, organisms."""
