"""entmax."""
