"""Measurements of the whole system, as JSON: ``make bench``, or one module at a time."""
