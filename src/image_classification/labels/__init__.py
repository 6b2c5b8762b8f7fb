"""Classes and lists: label maps, label values, `.lst` files, folder trees, splits."""
