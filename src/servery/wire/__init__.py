"""Bytes to terms and back, pure: one file per protocol."""
