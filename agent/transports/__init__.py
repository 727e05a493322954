"""Doors: WebSocket and WebRTC to one conversation each."""
