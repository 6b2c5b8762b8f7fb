"""The contract with SageMaker: files, environment, hyperparameters, channels, metrics, failures."""
