"""What states, weights and units say: lenses, patchscopes, weights as words, activating inputs."""
