"""Unit files of a real worker; nothing to import."""
