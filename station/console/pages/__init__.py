"""The areas of the console, a blueprint each: `pages` in every module."""
