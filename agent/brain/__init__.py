"""An outside brain: a chat model thinks, this server's model listens and speaks."""
