"""The files that prices are read from: the package's own, and the operator's, which counts more.

Owns where they lie and how they are read and written. The package's file is never written: what AWS
says today goes into the operator's own (XDG base directory specification). Must not ask AWS.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from ec2spawner.configfile import ConfigFileError, read_object, write_atomically
from ec2spawner.configmodel import faults_of
from ec2spawner.costs import PriceEntry, PriceFile, Prices, prices_of
from ec2spawner.errors import ConfigError

PACKAGE_FILE = Path(__file__).parent / "prices.json"
NEXT_STEP = "Delete it, or let `launch-cluster cost --refresh-prices` write it anew."


def user_file(environ: Mapping[str, str]) -> Path:
    """The operator's own file, which need not be there."""
    named = environ.get("XDG_DATA_HOME", "")
    home = Path(environ.get("HOME") or Path.home())
    # A relative path there counts as none (XDG base directory specification, 0.8).
    folder = Path(named) if Path(named).is_absolute() else home / ".local" / "share"
    return folder / "ec2spawner" / "prices.json"


def read_price_file(path: Path) -> PriceFile:
    """The file; ConfigFileError with all that is wrong with it."""
    raw, faults = read_object(path, NEXT_STEP)
    try:
        file = PriceFile.model_validate_json(json.dumps(raw))
    except ValidationError as error:
        faults.extend(faults_of(error, PriceFile))
    if faults:
        raise ConfigFileError(path, faults, NEXT_STEP)
    return file


def read_prices(region: str, own: Path) -> Prices:
    """What is known of a Region: from the package, and over it from ``own`` if it is there."""
    files = [read_price_file(PACKAGE_FILE)]
    if own.exists():
        files.append(read_price_file(own))
    return prices_of(region, files)


def add_prices(own: Path, entry: PriceEntry) -> None:
    """Write an entry into the operator's file, in the place of what it holds of the same products.

    A file that cannot be read is written anew; ConfigError if it cannot be written.
    """
    try:
        old = read_price_file(own).entries if own.exists() else ()
    except ConfigFileError:
        old = ()
    kept = [_without(other, entry) for other in old]
    entries = [*(other for other in kept if other.usd), entry]
    file = PriceFile(currency="USD", entries=tuple(entries))
    try:
        own.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(own, file.model_dump_json(indent=2) + "\n")
    except OSError as error:
        raise ConfigError(
            f"{own} cannot be written.",
            why=error.strerror or str(error),
            next_step="Name a folder that you may write to in XDG_DATA_HOME.",
        ) from error


def _without(old: PriceEntry, new: PriceEntry) -> PriceEntry:
    if old.region != new.region:
        return old
    kept = {product: usd for product, usd in old.usd.items() if product not in new.usd}
    return old.model_copy(update={"usd": kept})
