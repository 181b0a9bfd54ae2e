"""The serving wing: what clients and operators meet."""
