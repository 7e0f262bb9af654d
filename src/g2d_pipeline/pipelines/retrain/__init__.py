"""The pipeline `retrain`: new data → gates → all stages → a challenger, promoted or not."""
