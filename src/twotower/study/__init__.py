"""Studies: configs, recipes, many runs compared, and the report."""
