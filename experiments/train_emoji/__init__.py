"""Training of the small emoji model that ships in `postdiff/zoo/emoji`."""
