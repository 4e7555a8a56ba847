"""The whole way in a real browser: the demo as it is, Debian's chromium, students at work."""
