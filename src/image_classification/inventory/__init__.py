"""The inventory of a folder of images: class folders, or a list in one of several formats.

`folders.take_inventory` reads any of them; `rows` holds the result, an `Inventory`.
"""
