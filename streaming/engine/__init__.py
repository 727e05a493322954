"""The engine: models behind a fixed number of slots, driven from asyncio without ever blocking it."""
