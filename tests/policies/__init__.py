"""What the roles of a cluster may do, judged call by call."""
