"""Image files to pixels and back: headers, decoding, resizing, preprocessing, augmentation."""
