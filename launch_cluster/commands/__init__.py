"""The sub-commands of ``launch-cluster``, one module each, and what they share."""
