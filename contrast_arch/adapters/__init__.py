"""Networks of this package in the registries of other programs: spandrel, traiNNer-redux, neosr."""
