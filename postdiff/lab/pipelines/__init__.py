"""From a model card to a pipeline, its stages, and what it takes."""
