"""Poses: a student finds the joints of persons in crops."""
