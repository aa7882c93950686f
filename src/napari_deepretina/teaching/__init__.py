"""Teaching: the heads of a network learn from a person's corrections, in seconds."""
