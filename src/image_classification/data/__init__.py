"""Images, lists, records and the loader: numpy, Pillow, simplejpeg; nothing of SageMaker."""
