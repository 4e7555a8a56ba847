"""What makes a plain Debian or Ubuntu the manager; nothing to import."""
