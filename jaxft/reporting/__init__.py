"""What a person sees of a run: progress, metrics, pictures, and what it would do to every parameter."""
