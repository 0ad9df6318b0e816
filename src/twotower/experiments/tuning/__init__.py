"""The search of a config's space: what Optuna proposes, trials as runs of the pool, and the report."""
