"""scripts/device-check: does the product compute on this machine's GPU, right and fast enough?

`__main__` starts the checks of `catalog` one after another, each in processes of its own with a
time limit (`processes`), and writes the report after each one (`report`). It imports no framework.
A check is a module with a function `run` (`one`), which writes its rows as it finds them (`rows`).
"""
