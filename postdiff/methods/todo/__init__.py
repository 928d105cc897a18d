"""The method `todo`."""

from postdiff.methods.todo.method import ToDo

__all__ = ["ToDo"]
