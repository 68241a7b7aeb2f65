"""What turns the maps of a backbone into a pyramid."""
