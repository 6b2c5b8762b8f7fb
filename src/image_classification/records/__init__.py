"""MXNet RecordIO and TFRecord files: format, index, reading, writing, repair."""
