"""How fast the engine is: the whole training step, beside the loop that people write."""
