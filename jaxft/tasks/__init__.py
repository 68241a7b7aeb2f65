"""What differs between tasks, and nothing else: the loss, the evaluation and the prediction of one batch."""
