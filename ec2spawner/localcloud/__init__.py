"""The emulated cloud: EC2 and its neighbours on loopback, for trying out and testing."""
