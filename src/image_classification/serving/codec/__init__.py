"""Bodies in and out of the server; nothing here knows of Flask or of a model.

bodies        Content-Type and body → encoded images
answers       the Accept header and predictions → the body of the answer
"""
