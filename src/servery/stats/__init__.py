"""Pure mathematics: intervals and quantiles."""
