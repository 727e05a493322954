"""When things happen: frames, turns, engine, playout."""
