"""The nouns of Servery as frozen structs. No I/O, no clock, no randomness."""
