"""The network, its description and its weights."""
