"""Which tier is tried next: pure decisions of values, the same in production and in the simulator."""
