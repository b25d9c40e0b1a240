"""Circuits with names: tasks, the roles that their heads and MLPs have, and the interventions that prove each."""
