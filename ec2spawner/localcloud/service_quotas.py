"""Service Quotas of EC2's vCPUs and Elastic IPs, as the capacity file has them.

Owns GetServiceQuota and ListServiceQuotas for the service ``ec2``; moto has those of ``vpc`` only.
Must not know HTTP.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from ec2spawner.localcloud.ec2.capacity import Capacity
from ec2spawner.localcloud.ec2.failures import EC2Error
from ec2spawner.localcloud.ec2.quotas import QUOTAS, Quota
from ec2spawner.localcloud.ec2.records import ACCOUNT_ID

SERVICE_CODE = "ec2"
UNLIMITED = 1_000_000
"""What is answered where the capacity file sets no quota; on AWS there is always one."""
PAGE_SIZE = 100  # Service Quotas API reference, "ListServiceQuotas", 2026: 1 to 100

Document = Mapping[str, Any]


def is_ours(action: str, text: str) -> bool:
    """Whether a call is one that is answered here."""
    return action in _ACTIONS and _read(text).get("ServiceCode") == SERVICE_CODE


def answer(action: str, text: str, capacity: Capacity, region: str) -> dict[str, Any]:
    """The reply to a call, or EC2Error with Service Quotas' code."""
    return _ACTIONS[action](_read(text), capacity, region)


def _read(text: str) -> Document:
    try:
        document = json.loads(text)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _get(document: Document, capacity: Capacity, region: str) -> dict[str, Any]:
    quota = QUOTAS.get(document.get("QuotaCode", ""))
    if quota is None:
        raise EC2Error(
            "NoSuchResourceException",
            "The request failed because the specified quota does not exist.",
        )
    return {"Quota": _view(quota, capacity, region)}


def _list(document: Document, capacity: Capacity, region: str) -> dict[str, Any]:
    views = [_view(quota, capacity, region) for quota in QUOTAS.values()]
    token = str(document.get("NextToken") or "0")
    start = int(token) if token.isdigit() else 0
    size = min(document.get("MaxResults") or PAGE_SIZE, PAGE_SIZE)
    more = {"NextToken": str(start + size)} if start + size < len(views) else {}
    return {"Quotas": views[start : start + size], **more}


_ACTIONS: Mapping[str, Callable[[Document, Capacity, str], dict[str, Any]]] = {
    "GetServiceQuota": _get,
    "ListServiceQuotas": _list,
}


def _view(quota: Quota, capacity: Capacity, region: str) -> dict[str, Any]:
    vcpus = capacity.quota(quota.market, quota.class_)
    size = vcpus if quota.market else capacity.address_quota
    return {
        "ServiceCode": SERVICE_CODE,
        "ServiceName": "Amazon Elastic Compute Cloud (Amazon EC2)",
        "QuotaArn": f"arn:aws:servicequotas:{region}:{ACCOUNT_ID}:{SERVICE_CODE}/{quota.code}",
        "QuotaCode": quota.code,
        "QuotaName": quota.name,
        "Value": float(UNLIMITED if size is None else size),
        "Unit": "None",
        "Adjustable": True,
        "GlobalQuota": False,
        "QuotaAppliedAtLevel": "ACCOUNT",
    }
