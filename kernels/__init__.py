"""How it is computed fast."""
