"""Output of a job for people and programs: report, model card, history, TensorBoard events."""
