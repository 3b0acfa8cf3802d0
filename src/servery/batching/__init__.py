"""Calls of one Version run together: which, decided as values; and the thread that runs them."""
