"""Recipes: configs, how they merge, and what fills in what a config leaves open."""
