"""Bodies in and out of the server.

    accept        the Accept header → what the caller wants
    bodies        content type and body → encoded images (its parts: base64_images, multipart,
                  record_bodies)
    answers       predictions → the body of the answer

Nothing here knows of Flask or of a model.
"""
