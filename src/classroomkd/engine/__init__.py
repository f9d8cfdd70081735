"""Training and evaluation: one step, the Trainer, the run folder."""
