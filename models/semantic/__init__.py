"""What is said: an autoregressive LLaMA-style model over text, semantic units and chat tokens."""
