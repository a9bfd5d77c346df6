"""The nouns that cross a process border. Depends on the standard library, pydantic, numpy and pyarrow only."""
