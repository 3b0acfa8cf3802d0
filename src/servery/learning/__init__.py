"""From examples to parameters: what a labelled sample says about thresholds."""
