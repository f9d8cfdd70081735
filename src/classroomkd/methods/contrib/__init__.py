"""Methods of which something is unsure; the docstring of each says what."""

from classroomkd.methods.contrib import cc, kdcl, mlld, mmkd, okddip, one

__all__ = ["cc", "kdcl", "mlld", "mmkd", "okddip", "one"]
