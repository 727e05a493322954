"""OpenAI's HTTP audio endpoints, and voices."""
