"""Servery: one serving layer in front of every model a company runs."""

__version__ = "0.1.0"
