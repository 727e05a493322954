"""Units to codec latents: flow matching whose prior is centred on the semantic representation."""
