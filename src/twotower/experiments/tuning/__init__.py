"""Tuning: Optuna proposes configs from a search space, the pool runs them as trials, and a report shows the results."""
