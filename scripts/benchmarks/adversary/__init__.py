"""Parts of the attack benchmark: the server under attack, hostile input, and one file an attack."""
