"""Proof: runs compared number by number with the scalar definition, and the cases that every kernel is tested on."""
