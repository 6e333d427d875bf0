"""What the benches of a GPU compare, and how they time it."""
