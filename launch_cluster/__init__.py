"""Build, show and delete a cluster: the operator's commands."""
