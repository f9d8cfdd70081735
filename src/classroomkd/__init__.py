"""ClassroomKD: train a small network from several mentors at once."""

__version__ = "0.1.0"
