"""Records turned into figures."""
