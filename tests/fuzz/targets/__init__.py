"""The targets, a module each; see the package above."""
