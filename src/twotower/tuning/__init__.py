"""Tuning: a search of a config's space by validation, its worker processes, and its report."""
