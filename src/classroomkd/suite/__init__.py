"""Suites: grids of recipes and seeds, their search, their records and their tables."""
