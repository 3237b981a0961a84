"""Data sets of `prepare`: one module each, named in `scaleevent.config.catalog.DATASETS`."""
