"""``python -m classroomkd``, and ``torchrun -m classroomkd``: the command line."""

from classroomkd.cli import command

if __name__ == "__main__":
    command()
