"""Experiments: data cut once, runs trained and measured, a store that keeps them, and a pool that runs them."""
