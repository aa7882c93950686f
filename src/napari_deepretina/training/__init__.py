"""Learning: recipes, the loop, checkpoints, events. Knows no Qt; runs in a process of its own."""
