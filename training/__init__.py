"""The trainer and evaluator of the SPARNet family: training.train and training.evaluate are the commands."""
