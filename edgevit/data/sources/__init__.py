"""One module for each type of data set, with a function `read(config, base) -> Source`. Imported when needed."""
