"""The commands of `servery`, one file per noun."""
