"""Regions: everything of a stage between two products, a row at a time."""
