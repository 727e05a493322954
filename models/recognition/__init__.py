"""What was said, read letter by letter from what is heard, and decided by which words follow which."""
