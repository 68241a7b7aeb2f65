"""Pages about runs and data, each made of plain blocks; see `jaxft.reporting.page`."""
