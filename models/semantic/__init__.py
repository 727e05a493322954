"""The semantic model: what is said, as text and RVQ-1 units."""
