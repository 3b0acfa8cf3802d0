"""Limits as single-owner objects whose methods take `now`: no clock of their own."""
