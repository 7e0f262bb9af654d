"""The stage `featurize`."""
