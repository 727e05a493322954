"""Recipes that make the weights: corpus, loops and one recipe for each of the three parts."""
