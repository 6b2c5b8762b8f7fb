"""The user's own handlers, `code/inference.py` in the artifact, in the place of ours.

    selection   whether there are any; imports nothing of the user's
    handlers    runs them through the sagemaker-inference package's transformer
    defaults    our functions for those that the file does not have

Off unless the file is there and SAGEMAKER_PROGRAM names it: this is the one place where something
in an artifact executes.
"""
