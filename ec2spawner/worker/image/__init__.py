"""What makes a worker's image, run as root on the machine that becomes it; nothing to import.

``provision.sh`` installs, ``seal.sh`` takes away what must not be in two machines; the other files
are what the first of them puts in its place. ``make lock`` writes the locks.
"""
