"""Finished pictures on disk, one file each or many in one, and who may write them."""
