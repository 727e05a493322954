"""Real clients that hold a conversation with a running server and measure it from outside."""
