"""The least that a ``server_config.json`` holds."""

CLUSTER = {
    "CLUSTER_NAME": "biology101",
    "REGION": "us-east-1",
    "VPC_ID": "vpc-0123456789abcdef0",
    "WORKER_SUBNETS": [{"SUBNET_ID": "subnet-0123456789abcdef0", "ZONE": "us-east-1a"}],
    "WORKER_SECURITY_GROUP_ID": "sg-0123456789abcdef0",
    "MANAGER_SECURITY_GROUP_ID": "sg-0123456789abcdef1",
    "LAUNCH_TEMPLATE_ID": "lt-0123456789abcdef0",
    "WORKER_AMI_ID": "ami-0123456789abcdef0",
    "SSH_KEY_PARAMETER": "/ec2spawner/biology101/ssh-key",
    "BUCKET": "biology101-bucket",
}
