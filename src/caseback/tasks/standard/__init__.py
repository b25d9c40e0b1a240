"""One file per task; ``caseback.tasks.get(name)`` makes a task by its name."""
