"""The data report: what is in each split, what is missing or dropped, and what is suspicious."""
