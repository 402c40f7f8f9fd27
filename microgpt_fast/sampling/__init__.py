"""Text from a model, one sample after another or many together; and how well a model predicts a text."""
