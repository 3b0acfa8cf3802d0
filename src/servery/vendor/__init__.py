"""A vendor of language models that isn't one: its answers are made up, its faults are ordered, its invoice is its own."""
