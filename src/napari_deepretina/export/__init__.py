"""Results as files that other programs read; every writer replaces a file whole or not at all."""
