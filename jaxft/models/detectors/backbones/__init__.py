"""What turns images into feature maps."""
