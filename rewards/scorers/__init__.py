"""One file a scorer; ``registry.py`` finds them. To add a scorer, add a file that makes a ``SCORER``."""
