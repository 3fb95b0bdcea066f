"""Labelled structures on their way to training: frames, data sets, layouts, batches."""
