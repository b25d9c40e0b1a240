"""Another backward pass for the same forward pass, and the network as one affine map."""
