"""From a data set on disk to prompts: converters, pictures, phantoms, splits, PromptSource."""
