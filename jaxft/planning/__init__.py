"""What a training step takes on devices that are not here: memory, time, what travels between them."""
