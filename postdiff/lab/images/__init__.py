"""Finished images on disk: a folder of PNG files that say what they are of, and the grid of an experiment."""
