"""SageMaker's side: files, names, hyperparameters, channels, metrics. Knows nothing of images."""
