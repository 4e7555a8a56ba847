"""What S3's objects hold: written once, there again after a crash, gone with its last object."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from ec2spawner.localcloud.motostate import CONTENT, GRAPH
from localcloud.serving import Serving

PACKAGE = b"wheel" * 200_000


def blobs(serving: Serving) -> dict[str, int]:
    with sqlite3.connect(serving.state_dir / "cloud.sqlite") as store:
        return dict(store.execute("SELECT name, length(data) FROM blobs"))


def contents(serving: Serving) -> list[int]:
    return [size for name, size in blobs(serving).items() if name.startswith(CONTENT)]


def test_it_is_written_once_and_there_again_and_gone_with_its_last_object(tmp_path: Path) -> None:
    with Serving(tmp_path / "state") as serving:
        s3 = serving.client("s3")
        s3.create_bucket(Bucket="cluster")
        s3.put_bucket_versioning(Bucket="cluster", VersioningConfiguration={"Status": "Enabled"})
        for key, body in (("a", PACKAGE), ("b", PACKAGE), ("b", b"newer"), ("empty", b"")):
            s3.put_object(Bucket="cluster", Key=key, Body=body)
        assert sorted(contents(serving)) == [0, len(b"newer"), len(PACKAGE)]
        assert blobs(serving)[GRAPH] < len(PACKAGE) / 10

        serving.kill()
        serving.start()
        s3 = serving.client("s3")
        read = {key: s3.get_object(Bucket="cluster", Key=key) for key in ("a", "b", "empty")}
        bodies = {key: reply["Body"].read() for key, reply in read.items()}
        assert bodies == {"a": PACKAGE, "b": b"newer", "empty": b""}
        (old,) = [
            version
            for version in s3.list_object_versions(Bucket="cluster", Prefix="b")["Versions"]
            if not version["IsLatest"]
        ]
        first = {"Bucket": "cluster", "Key": "b", "VersionId": old["VersionId"]}
        assert s3.get_object(**first)["Body"].read() == PACKAGE

        s3.delete_object(**first)
        assert len(PACKAGE) in contents(serving)
        (only,) = s3.list_object_versions(Bucket="cluster", Prefix="a")["Versions"]
        s3.delete_object(Bucket="cluster", Key="a", VersionId=only["VersionId"])
        assert len(PACKAGE) not in contents(serving)
        assert s3.get_object(Bucket="cluster", Key="b")["Body"].read() == b"newer"
