"""The data report, which belongs to the stage `featurize`."""
