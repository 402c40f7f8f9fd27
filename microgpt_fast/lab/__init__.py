"""The laboratory: does a change help? Arms that differ in options, seeds that pair them, intervals that answer."""
