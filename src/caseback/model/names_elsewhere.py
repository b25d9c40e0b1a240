"""What people who come from other toolkits look for on a model, and what it is called here."""

from __future__ import annotations

from typing import Any

from caseback.model.display import Displayed

ELSEWHERE = {
    "run_with_cache": "model.run(prompt, read=['resid_post', 'z']), whose sites are run['z', 3]",
    "run_with_hooks": "model.run(prompt, edits=[cb.Zero('z', layer=3, head=2)]), or cb.Apply for a function",
    "hooks": "model.edited([...]), a model under edits, or edits=[...] of a call",
    "add_hook": "model.edited([...]), a model under edits, or edits=[...] of a call",
    "trace": "model.run(prompt, read=[...], edits=[...])",
    "to_tokens": "model.tokens(text)",
    "to_str_tokens": "model.tokens(text).text",
    "to_single_token": "model.token_id(' Mary')",
    "attribute": "cb.localize.inputs.gradient_x_input(model, prompt, cb.logit_diff(' Mary', ' John'))",
    **{f"W_{name}": f"model.weights.W_{name}[layer]" for name in "QKVO"},
}


class NamedElsewhere(Displayed):
    """A model that answers to another toolkit's name with what to write instead."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        if name in ELSEWHERE:
            raise AttributeError(f"a model has no {name!r}; here it is {ELSEWHERE[name]}", name=name, obj=self)
        return object.__getattribute__(self, name)
