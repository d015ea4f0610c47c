"""Where images come from, how a picture becomes numbers, and which image is for what."""
