"""One module for each kind of data set, each with `read(config, base) -> Source`; imported only when it is used."""
