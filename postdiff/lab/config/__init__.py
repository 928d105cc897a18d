"""What a run is made of, and how YAML and the command line become it."""
