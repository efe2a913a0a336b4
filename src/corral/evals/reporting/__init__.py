"""What reports are made of: markup that escapes what it is given, charts in SVG, figures in words, and the page."""
