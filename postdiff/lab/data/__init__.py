"""What images are made of: prompts and classes, images that go in, real ones to compare with."""
