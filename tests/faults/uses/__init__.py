"""What writes files."""
