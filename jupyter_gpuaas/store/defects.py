"""What can be wrong with a manifest or a group record; one class a defect (`docs/checkpoint-format.md`, section 6)."""

from __future__ import annotations

from ..errors import ManifestError


class NoManifest(ManifestError):
    """It does not begin like one."""


class UnknownFormat(ManifestError):
    """It is of a version that this program does not read."""


class TooLarge(ManifestError):
    """It, or something that it counts, is beyond the limits of the format."""


class WrongLength(ManifestError):
    """It is cut off, or something follows it."""


class Forged(ManifestError):
    """It was not sealed with this owner's key, or changed since."""


class Malformed(ManifestError):
    """Its body is not the msgpack of what it should be."""


class OtherCheckpoint(ManifestError):
    """It is the manifest of a checkpoint with another id than the one that was asked for."""


class BadText(ManifestError):
    """An id, a name or a label is empty, too long, or has characters that it may not have."""


class BadNumber(ManifestError):
    """A number is negative or not finite."""


class BadBlob(ManifestError):
    """A blob's size does not go with the number of its digests."""


class NameTwice(ManifestError):
    """A name belongs to two groups, or twice to one."""


class NoVerdict(ManifestError):
    """A group has a name of which the manifest does not say what became of it."""


class UnknownOutcome(ManifestError):
    """What became of a name is none of the known outcomes."""


class UnknownMaker(ManifestError):
    """A region is to be allocated in a way that this program does not know, or whose arguments make no sense."""


class SpanOutside(ManifestError):
    """A buffer is said to lie in no region, or reaches out of the one that it lies in."""
