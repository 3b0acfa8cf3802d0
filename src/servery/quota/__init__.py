"""Limits as single-owner objects whose methods take `now`, and the counters that workers share."""
