"""The parameter that names the image of new workers, as SSM may answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import pytest

from ec2spawner.cloud import Gateway
from ec2spawner.errors import NotFound, Rejected
from launch_cluster.images import DATA_TYPE, ImageParameterUnset, Images


class Store:
    """SSM with one parameter, which takes ``late`` looks to show a new value."""

    def __init__(self, value: str | None, late: int = 0) -> None:
        self.value, self.late = value, late
        self.put: list[Mapping[str, Any]] = []
        self.before_put: Callable[[], None] = lambda: None
        self.now = 0.0

    async def call(self, service: str, operation: str, params: Any, **more: Any) -> Any:
        assert service == "ssm"
        if operation == "get_parameter":
            if self.put and self.late > 0:
                self.late -= 1
            elif self.put:
                self.value = self.put[-1]["Value"]
            if self.value is None:
                raise NotFound("absent", aws_code="ParameterNotFound")
            return {"Parameter": {"Value": self.value}}
        self.before_put()
        if self.value is not None and not params.get("Overwrite"):
            raise Rejected("there", aws_code="ParameterAlreadyExists")
        assert not (params.get("Overwrite") and params.get("Tags"))  # SSM refuses both at once
        self.put.append(params)
        return {"Version": 1}

    async def sleep(self, seconds: float) -> None:
        self.now += seconds

    def images(self) -> Images:
        return Images(
            cast("Gateway", self), "bio", {"a": "b"}, sleep=self.sleep, clock=lambda: self.now
        )


async def test_it_is_made_with_tags_and_the_data_type_that_ec2_takes() -> None:
    store = Store(None)
    await store.images().set_current("ami-1")
    (params,) = store.put
    assert params["Name"] == "/ec2spawner/bio/worker-image"
    assert (params["Type"], params["DataType"]) == ("String", DATA_TYPE)
    assert params["Tags"] == [{"Key": "a", "Value": "b"}]


async def test_a_new_value_is_set_once_it_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    store = Store("ami-1", late=8)
    await store.images().set_current("ami-2")
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "Waiting until SSM takes the image ami-2 …"
    assert said[1].endswith("SSM asks EC2 whether it exists, 10 s")
    assert store.value == "ami-2"
    assert store.put[0]["Overwrite"] is True
    assert store.now > 0


async def test_one_that_somebody_else_made_meanwhile_is_overwritten() -> None:
    store = Store(None)

    def somebody() -> None:
        store.before_put = lambda: None
        store.value = "ami-theirs"

    store.before_put = somebody
    await store.images().set_current("ami-1")
    assert store.value == "ami-1"


async def test_a_value_that_ssm_takes_and_does_not_keep_is_told() -> None:
    store = Store("ami-1", late=10_000)
    with pytest.raises(ImageParameterUnset) as caught:
        await store.images().set_current("ami-2")
    assert "/ec2spawner/bio/worker-image" in caught.value.what
    assert caught.value.next_step
