"""The commands that build, change and end a cluster.

Importing this package does nothing. It may import ``ec2spawner``; never the other way round.
"""
