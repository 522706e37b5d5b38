"""Pure tensor mathematics of ND++: no modules, no state."""
