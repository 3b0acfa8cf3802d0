"""The path of a change: declare, resolve, validate, apply."""
