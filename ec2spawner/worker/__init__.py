"""What runs on the worker, under its own command `ec2spawner-worker`."""
