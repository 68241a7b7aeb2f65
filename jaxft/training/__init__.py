"""The loop, the state, the compiled step, the optimizer, checkpoints. It knows the Task protocol and no task."""
