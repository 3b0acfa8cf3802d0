"""The only place that knows the concrete classes: one file per kind of process."""
