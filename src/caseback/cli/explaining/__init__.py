"""Why the model predicted this: inputs, training texts, components, and all of them with checks."""
