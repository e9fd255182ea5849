"""Expressions as data: symbols that record the arithmetic done on them, and the text they become."""
