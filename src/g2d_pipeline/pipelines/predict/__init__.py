"""The stage `teachers`."""
