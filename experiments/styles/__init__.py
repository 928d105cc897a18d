"""Training of the model that combines a concept, a style and a background colour."""
