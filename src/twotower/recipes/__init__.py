"""Recipes: configs, how they merge, and the recipes that fill in the settings a config leaves open."""
