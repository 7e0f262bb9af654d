"""The data report: the content of each split, missing and dropped samples, and suspicious findings."""
