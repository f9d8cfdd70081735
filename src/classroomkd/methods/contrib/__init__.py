"""Methods of which something is unsure; the docstring of each says what."""

from classroomkd.methods.contrib import cc, diffkd, kdcl, mlld, okddip, one

__all__ = ["cc", "diffkd", "kdcl", "mlld", "okddip", "one"]
