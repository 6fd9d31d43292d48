"""What people install: the wheel, the source distribution, the image and the compose file."""
