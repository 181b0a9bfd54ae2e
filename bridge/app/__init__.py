"""The server process: startup, runtime, transports, reload of settings, workers."""
