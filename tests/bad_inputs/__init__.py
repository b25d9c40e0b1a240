"""A generator of bad inputs: every door of the package, one bad value in a call that is otherwise valid.

A *door* is a command, or a public function or class. A *fault* is what a user must never meet, see ``outcome``.
``python -m bad_inputs --inputs 500`` (with ``src`` and ``tests`` on the path, ``make bad-inputs``) prints how many
inputs were tried at each door; ``test_bad_inputs.py`` tries fewer of the same, from fixed seeds.
"""
