"""All Prometheus names of the product, in one place.

They land in prometheus_client's default registry, which the hub shows at ``/hub/metrics``. Must not
know who counts.
"""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

AWS_CALLS = Counter(
    "ec2spawner_aws_calls_total",
    "Attempts of AWS API calls, by action and outcome (ok, or the class of the failure)",
    ["action", "outcome"],
)
BUCKET_TOKENS = Gauge(
    "ec2spawner_bucket_tokens",
    "What EC2's limit for an action admits at this moment, as the hub counts: requests, and for "
    "some actions instances; below zero, so many wait",
    ["action", "what"],
)
LEASE_RENEWALS = Counter(
    "ec2spawner_lease_renewals_total",
    "Writes of the hub's lease on its cluster, by outcome (ok, or the class of the failure)",
    ["outcome"],
)
LEASE_HELD = Gauge(
    "ec2spawner_lease_held", "Whether this hub holds its cluster's lease, and may write (1 or 0)"
)
INVENTORY_AGE_SECONDS = Gauge(
    "ec2spawner_inventory_age_seconds", "Age of the last full listing of the cluster"
)
WORKERS = Gauge("ec2spawner_workers", "Workers by EC2 state and profile", ["state", "profile"])
SPARES = Gauge(
    "ec2spawner_spares",
    "Workers that are nobody's, by profile and readiness: ready, booting, rested, unprepared",
    ["profile", "readiness"],
)
FAILED_OFFERINGS = Gauge(
    "ec2spawner_failed_offerings",
    "What is not tried for three minutes, by kind: capacity, capacity to start, subnet, quota; for "
    "an hour: image, of which no spare machine came up",
    ["kind"],
)
CLAIMS = Counter("ec2spawner_claims_total", "Workers that were given to an owner")
REAPED = Counter(
    "ec2spawner_reaped_total",
    "What was removed, for nobody wants it: worker, home, snapshot",
    ["what"],
)
ACTIONS = Counter(
    "ec2spawner_actions_total",
    "Actions of the reconciler, by kind and outcome",
    ["kind", "outcome"],
)
BROKEN_WORKERS = Counter(
    "ec2spawner_broken_workers_total", "Workers that were found not to serve, and were replaced"
)
HOMES_MOVED = Counter("ec2spawner_homes_moved_total", "Homes that were moved to another zone")
START_PHASE_SECONDS = Histogram(
    "ec2spawner_start_phase_seconds",
    "Seconds of each phase of a start: machine, ssh, server",
    ["phase"],
    buckets=(0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120, 300, 600),
)
