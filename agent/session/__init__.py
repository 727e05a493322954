"""Conversations: who speaks, what was heard, what is answered."""
