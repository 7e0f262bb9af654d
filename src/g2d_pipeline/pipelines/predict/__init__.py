"""The pipeline `predict`: a trained model + raw samples → predictions."""
