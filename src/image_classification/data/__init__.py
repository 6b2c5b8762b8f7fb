"""Images, lists, records and the loader: numpy, Pillow and simplejpeg only, nothing of SageMaker."""
