"""The method `encoder_propagation`."""

from postdiff.methods.encoder_propagation.method import EncoderPropagation

__all__ = ["EncoderPropagation"]
