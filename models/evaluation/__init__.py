"""How good a model is, by judges that are not the model: figures for the model card, from one command."""
