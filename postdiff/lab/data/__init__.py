"""What pictures are made of: prompts and classes, pictures that go in, real ones to compare with."""
