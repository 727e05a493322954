"""What is computed: the three models, their checkpoints and training."""
