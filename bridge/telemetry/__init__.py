"""Log, metrics, audit and traces. Its modules are listeners of events."""
