"""Data sets: reading them, checking them, splitting them, and the simulated one."""
