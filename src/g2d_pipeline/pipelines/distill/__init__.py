"""The stage `distill`."""
