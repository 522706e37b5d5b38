"""Statistics of a layer's data matrix: state, averaging, schedule, and the exchange between ranks."""
